"""From other services' exports, and from our own Ledger, to conversations: one reader for each format."""
