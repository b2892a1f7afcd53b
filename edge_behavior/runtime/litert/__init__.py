"""What the LiteRT backend is made of: loading, call planning, the model's inputs, its cache and buffers."""
