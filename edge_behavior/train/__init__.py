"""The two-stage recipe: backbone, A-Tuning, pool scoring, selection, B-Tuning, evaluation, report."""
