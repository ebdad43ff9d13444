"""Fine-tuning on the owner's chats: export, curate, train, evaluate, publish."""
