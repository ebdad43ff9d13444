"""Chats become a dataset: filters, personal information, duplicates, review, split, card."""
