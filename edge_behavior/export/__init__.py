"""From a trained adapter to a bundle: merge, convert, quantize, prove, write.

Needs torch, transformers, peft and gguf (the `export` extra), the ONNX modules also the `onnx` extra. Nothing is
imported here.
"""
