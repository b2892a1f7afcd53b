"""Configurations that tests of sizes and memory share."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2Config

from edge_behavior.train.recipe import LoraSettings

LORA = LoraSettings()
QWEN: dict[str, Any] = {
    "vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True, "dtype": "bfloat16",
}  # fmt: skip
LLAMA: dict[str, Any] = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip


def small(layers: int = 4, **changes: Any) -> Qwen2Config:
    """A narrow Qwen2 with a vocabulary of 600."""
    fields = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4}
    return Qwen2Config(**{**fields, "num_hidden_layers": layers, "num_key_value_heads": 2, **changes})
