"""Which variants are in memory: a budget for each node, and who goes when another is wanted."""

RESIDENCY = "Residency"
"""The deployment's name, by which variants find it (they cannot be given it: it is given them)."""
