"""Which variants are in memory: a budget for each node, and who goes when another is wanted."""
