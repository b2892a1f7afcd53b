"""The LiteRT format: one `.tflite` with edgeb's manifest and tokenizer behind it."""
