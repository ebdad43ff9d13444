"""What scripts/benchmark.py measures. Ratios within one run, never bare times; CI does not run it."""
