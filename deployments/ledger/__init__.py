"""Every query, written down."""
