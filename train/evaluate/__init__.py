"""Whether what was trained is better than its base, and forgets and betrays nothing."""
