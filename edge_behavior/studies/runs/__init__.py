"""What studies of many runs have in common: recipes that vary, a folder of runs, and stages trained once."""
