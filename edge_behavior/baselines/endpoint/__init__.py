"""Any OpenAI-compatible endpoint as a system: a language model that runs elsewhere."""
