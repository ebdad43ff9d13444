"""Which variant answers, and why."""
