"""Parity: how far the exported model's predictions are from the trained one's, step by step, and what is too far."""
