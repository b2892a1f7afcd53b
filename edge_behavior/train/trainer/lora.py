"""The LoRA adapter of a recipe."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

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
    """Hold the trained weights in float32, whatever the backbone's dtype.

    TRL casts a quantized model's adapter to bfloat16, whose numbers near 0.01 are 6e-5 apart: steps at both ends of
    the cosine schedule would round to zero.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def merge_for_scoring(model: Any) -> None:
    """Add the adapter, if there is one, to the weights in place: that saves two products per layer.

    Only in float32: other weights would round what is added. The adapter itself stays as it is, and is saved as before.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if layers and all(layer.get_base_layer().weight.dtype == torch.float32 for layer in layers):
        model.merge_adapter()
