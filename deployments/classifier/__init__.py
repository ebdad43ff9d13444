"""What kind of query this is."""
