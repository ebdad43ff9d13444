"""Adapters beside their bases: which are promoted, whose requests they answer, and where their weights lie."""
