"""The ONNX format: onnxruntime-genai's builder, its options, the export."""
