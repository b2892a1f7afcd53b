"""Windows in, metrics out: protocols, simple counters, metrics and their tables."""
