"""From conversations to token ids and labels, as the base model's own chat template has them."""
