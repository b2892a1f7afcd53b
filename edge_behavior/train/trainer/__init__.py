"""How this project drives Transformers' Trainer: arguments, LoRA, batches, processes, failures, progress."""
