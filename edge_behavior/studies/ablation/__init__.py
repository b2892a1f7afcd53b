"""Ablations and sweeps: which recipes to compare, running them over seeds, and what came out."""
