"""The backbone made on the spot, for demos and tests: its text, its tokenizer, its training."""
