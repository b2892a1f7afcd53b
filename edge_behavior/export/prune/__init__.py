"""Vocabulary pruning: which tokens stay, and whether the predictions stay the same."""
