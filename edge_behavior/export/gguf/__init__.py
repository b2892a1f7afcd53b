"""The GGUF format: writing, quantizing, the importance matrix, checking against llama.cpp."""
