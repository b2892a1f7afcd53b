"""What tree scoring makes of a model: its output layer in tiles, its attention under tree masks."""
