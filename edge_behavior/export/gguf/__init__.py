"""The GGUF format: the export pipeline, writing, quantizing, the importance matrix, grammars."""
