"""A log becomes a dataset folder: one module per format, and what they share."""
