"""Everything around Transformers' Trainer: arguments, LoRA, backbone, batches, processes, failures, progress."""
