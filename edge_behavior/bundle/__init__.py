"""What a bundle is, on disk: the manifest, and the GGUF file or ONNX folder that carries it."""
