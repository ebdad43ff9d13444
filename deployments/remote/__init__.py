"""Variants that someone else runs."""
