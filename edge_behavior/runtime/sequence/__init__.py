"""Sequence models on a phone's terms: events as tokens, and the networks in NumPy."""
