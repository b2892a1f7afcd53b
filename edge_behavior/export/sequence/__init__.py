"""A comparison's sequence model becomes a bundle."""
