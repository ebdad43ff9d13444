"""Personal information in text: found, and replaced by what reads like it."""
