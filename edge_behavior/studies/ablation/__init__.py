"""Ablations and sweeps: the recipes to compare, their runs over seeds, and the results."""
