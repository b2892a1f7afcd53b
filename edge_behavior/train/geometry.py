"""Sizes of a backbone and its adapter, counted on the real classes without memory for weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import LoraSettings
from edge_behavior.train.trainer.lora import lora_config

# NF4 with double quantization: 4-bit levels, an 8-bit scale per 64 weights, a float32 per 256 scales.
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


@dataclass(frozen=True)
class Geometry:
    """Sizes of a backbone and of the adapter that a recipe puts on it.

    Attributes:
        config: The Transformers configuration.
        linears: (outputs, inputs) of every linear layer, without the output head.
        parameters: All parameters; tied weights once.
        adapter: Trainable parameters of the adapter.
    """

    config: Any
    linears: tuple[tuple[int, int], ...]
    parameters: int
    adapter: int

    @property
    def packable(self) -> int:
        """Weights of the linear layers, which `quantize: 4bit` packs."""
        return sum(outputs * inputs for outputs, inputs in self.linears)


def geometry(config: Any, lora: LoraSettings) -> Geometry:
    """Count the parameters of a backbone and of its adapter.

    Raises:
        EdgebError: the configuration is not a causal language model's.
    """
    model = empty_model(config, int(config.num_hidden_layers), torch.float32)
    parameters, head = int(model.num_parameters()), model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    shapes = tuple((m.out_features, m.in_features) for m in linears)
    adapter = sum(p.numel() for p in with_adapter(model, lora).parameters() if p.requires_grad)
    return Geometry(config, shapes, parameters, adapter)


def empty_model(config: Any, layers: int, dtype: torch.dtype) -> Any:
    """The backbone with its first `layers` layers, on the meta device."""
    with torch.device("meta"):
        return build_model(config, layers, dtype)


def build_model(config: Any, layers: int, dtype: torch.dtype) -> Any:
    """The backbone with its first `layers` layers and random weights, on the current device.

    Raises:
        EdgebError: the configuration is not a causal language model's.
    """
    short = copy.deepcopy(config)
    short.num_hidden_layers = layers
    if getattr(short, "layer_types", None):
        short.layer_types = list(short.layer_types)[:layers]
    make: Any = AutoModelForCausalLM
    try:
        return make.from_config(short, dtype=dtype, attn_implementation="sdpa")
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise EdgebError(f"the backbone is not a causal language model: {reason}", "use another backbone") from None


def with_adapter(model: Any, lora: LoraSettings) -> Any:
    """The model under a fresh adapter with float32 factors, as A-Tuning starts with."""
    return get_peft_model(model, lora_config(lora)).train()
