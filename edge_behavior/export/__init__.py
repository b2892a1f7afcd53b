"""From a trained adapter to a bundle: merge, prune, convert, compare, write. `context` is what all formats share.

Needs torch, transformers, peft and gguf (the `export` extra), the ONNX modules also the `onnx` extra. Nothing is
imported here.
"""
