"""Event tables become training rows, tokenized batch by batch."""
