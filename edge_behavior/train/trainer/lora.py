"""The adapter that a recipe puts on a backbone."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig

from edge_behavior.train.recipe import LoraSettings


def lora_config(settings: LoraSettings) -> LoraConfig:
    """PEFT's LoRA configuration for a recipe."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )


def in_float32(model: Any) -> None:
    """Hold the trained weights in float32, whatever the backbone's type is.

    TRL makes a quantized model's adapter bfloat16. Near 0.01 its neighbours are 6e-5 apart: steps at the ends of the
    cosine from 1e-4 to 1e-6 would round to nothing.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
