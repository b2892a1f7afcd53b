"""What training and export both need to know of a Hugging Face model folder."""
