"""What a backbone's configuration alone says of its size: parameters, bytes in memory, and its adapter.

Models are built on the meta device, so that counts are those of the real classes and no weight is read.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import LoraSettings
from edge_behavior.train.trainer.lora import lora_config

# bitsandbytes' NF4: weights per scale, scales per scale of the scales.
_BLOCK, _NESTED_BLOCK = 64, 256
# Per weight: tables of 16 and 256 float32 levels, and the mean of the scales.
_NF4_TABLES = 4 * (16 + 256 + 1)


@dataclass(frozen=True)
class Geometry:
    """Sizes of a backbone and of the adapter that a recipe puts on it.

    Attributes:
        config: The Transformers configuration.
        linears: Elements of every weight that `quantize: 4bit` would pack; the output head stays.
        parameters: All parameters; tied weights once.
        adapter: Trainable parameters of the adapter.
    """

    config: Any
    linears: tuple[int, ...]
    parameters: int
    adapter: int

    @property
    def layers(self) -> int:
        """Depth."""
        return int(self.config.num_hidden_layers)

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """Rows of the output head."""
        return int(self.config.vocab_size)

    def weight_bytes(self, dtype: torch.dtype, quantize: bool) -> int:
        """Bytes of the frozen weights."""
        if not quantize:
            return self.parameters * dtype.itemsize
        packed = sum(self.linears)
        return (self.parameters - packed) * dtype.itemsize + sum(nf4_bytes(n) for n in self.linears)


def geometry(config: Any, lora: LoraSettings) -> Geometry:
    """Count a backbone's parameters and those of its adapter, without memory for either.

    Raises:
        EdgebError: the configuration is of no causal language model.
    """
    model = empty_model(config, int(config.num_hidden_layers), torch.float32)
    parameters = int(model.num_parameters())
    head = model.get_output_embeddings()
    linears = tuple(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    tuned = with_adapter(model, lora)
    return Geometry(config, linears, parameters, sum(p.numel() for p in tuned.parameters() if p.requires_grad))


def empty_model(config: Any, layers: int, dtype: torch.dtype) -> Any:
    """The backbone with its first `layers` layers, on the meta device."""
    with torch.device("meta"):
        return build_model(config, layers, dtype)


def build_model(config: Any, layers: int, dtype: torch.dtype) -> Any:
    """The backbone with its first `layers` layers and random weights, on the current device.

    Raises:
        EdgebError: the configuration is of no causal language model.
    """
    make: Any = AutoModelForCausalLM
    try:
        return make.from_config(shortened(config, layers), dtype=dtype, attn_implementation="sdpa")
    except ValueError as error:
        raise EdgebError(f"the backbone is no causal language model: {str(error).splitlines()[0]}") from None


def with_adapter(model: Any, lora: LoraSettings) -> Any:
    """The model under a fresh adapter, as A-Tuning makes it: float32 factors."""
    return get_peft_model(model, lora_config(lora)).train()


def shortened(config: Any, layers: int) -> Any:
    """A copy of a configuration with its first `layers` layers."""
    short = copy.deepcopy(config)
    short.num_hidden_layers = layers
    if getattr(short, "layer_types", None):
        short.layer_types = list(short.layer_types)[:layers]
    return short


def nf4_bytes(elements: int) -> int:
    """Bytes of one weight as NF4 with double quantization (bitsandbytes): 4-bit levels, 8-bit scales, their scales."""
    scales = math.ceil(elements / _BLOCK)
    return math.ceil(elements / 2) + scales + 4 * math.ceil(scales / _NESTED_BLOCK) + _NF4_TABLES
