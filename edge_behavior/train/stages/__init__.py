"""The stages of the method: A-Tuning, the pool, selection, B-Tuning."""
