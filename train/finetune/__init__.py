"""Training an adapter: TRL's trainers in Ray Train's workers, resumable at any step."""
