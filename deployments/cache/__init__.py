"""Answers that are there already."""
