"""One engine each, behind one interface (`base`): llama.cpp, onnxruntime-genai, PyTorch."""
