"""Scores as the organisers of challenges compute them, each a declaration over the same overlap table."""
