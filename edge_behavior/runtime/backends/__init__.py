"""Inference engines behind one interface (`base`): llama.cpp, onnxruntime-genai, PyTorch."""
