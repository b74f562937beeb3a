"""What the named trainers run on: the base trainer, what it loads, scores and records."""
