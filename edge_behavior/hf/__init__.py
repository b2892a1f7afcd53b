"""What training and export share about Hugging Face models: folders, tokenizers, tensors, scoring."""
