"""Whether a run fits a device: bytes of every stage by formula, and the first change of the recipe that helps.

The formula holds for decoders with gated MLPs, LoRA and fused attention, which keeps no matrix of scores; tests
compare it with what PyTorch allocates for real models. Not in it: a CUDA context, kernels, fragmentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import torch

from edge_behavior.errors import EdgebError
from edge_behavior.hf.tree.head import TILE_ROWS
from edge_behavior.train.geometry import NF4_BYTES, Geometry
from edge_behavior.train.plan.counts import Batch, Counts, Window
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.stages.scoring import SHARD
from edge_behavior.train.trainer.batch_split import micro_batch_of
from edge_behavior.train.trainer.label_head import TILE
from edge_behavior.util.numbers import GIB, gib

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": GIB}
_FLOAT = 4
# TRL's fused LM head (1.16) on a GPU computes logits in tiles of so many positions by so many tokens of the vocabulary.
_TILE_POSITIONS, _TILE_VOCABULARY = 4096, 32768
Needs = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Device:
    """Where a run is planned: bytes that a process may take, and whether the device is this machine's."""

    kind: Literal["cpu", "cuda"]
    name: str
    available: int
    here: bool
    bf16: bool = False


def this_device() -> Device:
    """The device that training would use here, with what is free on it now."""
    if not torch.cuda.is_available():
        return Device("cpu", "this CPU", psutil.virtual_memory().available, True)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Device("cuda", torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0], True, bf16)


def other_gpu(memory: str) -> Device:
    """A GPU with bfloat16 that is not here, with this much memory ("24GiB").

    Raises:
        EdgebError: not an amount of memory.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?B)?\s*", memory.upper())
    if found is None or not float(found[1]):
        raise EdgebError(f"--device-memory {memory}: not an amount of memory", "for example --device-memory 24GiB")
    return Device("cuda", "that GPU", int(float(found[1]) * _UNITS[found[2] or ""]), False, bf16=True)


@dataclass(frozen=True)
class Precision:
    """dtype of the frozen weights (4-bit ones: unpacked), and whether matrix products run in bfloat16 all the same."""

    weights: torch.dtype
    autocast: bool

    @property
    def size(self) -> int:
        """Bytes of an activation in training."""
        return 2 if self.autocast else self.weights.itemsize


def precision(recipe: Recipe, sizes: Geometry, device: Device) -> Precision:
    """How the backbone is held and computed, as `load_model` and the trainers choose it; on a CPU `auto` is float32."""
    dtype: Any = torch.float32
    if recipe.backbone.dtype != "auto":
        dtype = getattr(torch, recipe.backbone.dtype)
    elif device.kind == "cuda" and recipe.backbone.path is not None:
        dtype = sizes.config.dtype or torch.float32
    return Precision(dtype, device.bf16 if device.kind == "cuda" else dtype == torch.bfloat16)


@dataclass(frozen=True)
class Memory:
    """Memory of recipes that differ in how they train: one backbone, workload, and device of each of the processes."""

    sizes: Geometry
    counts: Counts
    device: Device
    processes: int = 1

    def needs(self, recipe: Recipe) -> Needs:
        """Bytes of every stage at its worst moment, by part and in `total`."""
        sizes, backbone, packed = self.sizes, recipe.backbone, recipe.backbone.quantize == "4bit"
        how = precision(recipe, sizes, self.device)
        weights = sizes.parameters * how.weights.itemsize
        # bitsandbytes unpacks one weight at a time.
        unpacked = max(a * b for a, b in sizes.linears) * how.weights.itemsize if packed else 0
        if packed:
            weights -= int(sizes.packable * (how.weights.itemsize - NF4_BYTES))
        # Weights, gradients and AdamW's two moments in float32; DDP sends gradients from a copy.
        copies = 4 if self.processes == 1 else 5
        fixed = {"weights": weights, "adapter": sizes.adapter * _FLOAT * copies}
        needs: Needs = {}
        if backbone.path is None and backbone.pretrain_tokens:
            tokens = backbone.pretrain_batch_size // self.processes * backbone.pretrain_block
            logits = tokens * sizes.config.vocab_size * _FLOAT
            kept = sizes.config.num_hidden_layers * kept_in_layer(sizes, tokens, Precision(torch.float32, how.autocast))
            needs["backbone"] = {
                "weights": sizes.parameters * _FLOAT, "optimizer": sizes.parameters * _FLOAT * (copies - 1),
                "activations": kept + logits, "working": 2 * logits,
            }  # fmt: skip
        for stage, samples in self.counts.samples.items():
            settings = getattr(recipe, stage)
            batch = samples.batch(micro_batch_of(settings, self.processes))
            kept, working = training_bytes(sizes, batch, how, settings.gradient_checkpointing)
            head = head_bytes(sizes, batch, how, self.device.kind)
            # The head's memory is free again when the layers' backward pass begins.
            parts = {"activations": kept, "logits": head, "working": max(0, working - head) + unpacked}
            needs[stage] = {**fixed, **parts}
        window = self.counts.longest_window
        scoring = scoring_bytes(sizes, window, windows_per_pass(recipe, window), how.weights.itemsize)
        needs["scoring"] = {**fixed, "scoring": scoring + unpacked}
        return {stage: {**parts, "total": sum(parts.values())} for stage, parts in needs.items()}

    def total(self, recipe: Recipe) -> int:
        """What the most demanding stage needs."""
        return max(parts["total"] for parts in self.needs(recipe).values())

    def refusal(self, recipe: Recipe) -> EdgebError | None:
        """Why the recipe does not fit the device, with the first change that does; None where it fits."""
        available, needed = self.device.available, self.total(recipe)
        if needed <= available:
            return None
        message = f"training needs about {gib(needed)}, {self.device.name} has {gib(available)}"
        least, smallest = needed, {}
        for change in self._changes(recipe):
            total = self.total(changed(recipe, change))
            if total <= available:
                return EdgebError(message, _as_flags(change))
            if total < least:
                least, smallest = total, change
        more = f" and {_as_flags(smallest)}" if smallest else ""
        return EdgebError(message, f"use a device with at least {gib(least, up=True)}{more}")

    def _changes(self, recipe: Recipe) -> Iterator[dict[str, Any]]:
        """Overrides to try, the cheapest first: alone, then together."""
        needs, backbone = self.needs(recipe), recipe.backbone
        tight = {s: getattr(recipe, s) for s in self.counts.samples if needs[s]["total"] > self.device.available}
        now = {stage: micro_batch_of(settings, self.processes) for stage, settings in tight.items()}
        checkpointing: dict[str, Any] = {
            f"{s}.gradient_checkpointing": True for s in tight if not tight[s].gradient_checkpointing
        }
        smaller = [
            {f"{s}.micro_batch_size": size for s in tight if size < now[s]}
            for size in _halves(max(now.values(), default=1))
        ]
        packable = self.device.kind == "cuda" and backbone.quantize == "none" and backbone.path is not None
        four_bits: dict[str, Any] = {"backbone.quantize": "4bit"} if packable else {}
        fewer = self._fewer_tokens(recipe)
        together = [{**checkpointing, **small, **bits} for bits in ({}, four_bits) for small in ({}, *smaller)]
        for change in ({}, checkpointing, *smaller, four_bits, *together):
            yield change
            yield {**fewer, **change}

    def _fewer_tokens(self, recipe: Recipe) -> dict[str, Any]:
        """What makes a scoring pass fit, or as small as a pass can be; nothing where it fits."""
        now, change = recipe.scoring.tokens_per_pass, dict[str, Any]()
        for tokens in (now, *(size for size in _halves(now) if size >= self.counts.longest_window.own)):
            change = {} if tokens == now else {"scoring.tokens_per_pass": tokens}
            if self.needs(changed(recipe, change))["scoring"]["total"] <= self.device.available:
                break
        return change


def training_bytes(sizes: Geometry, batch: Batch, how: Precision, checkpointing: bool) -> tuple[int, int]:
    """What the layers keep of a forward pass, and what the worst moment of the backward pass needs on top."""
    layers, row = int(sizes.config.num_hidden_layers), batch.tokens * int(sizes.config.hidden_size)
    # As if attention had a mask, which every layer keeps as numbers: FlashAttention needs none.
    mask = batch.tokens * batch.length
    in_layer = kept_in_layer(sizes, batch.tokens, how) + mask * how.size
    # The final norm, in float32, and the mask itself.
    ends = row * 2 * _FLOAT + mask
    gradients = batch.tokens * max(outputs for outputs, _ in sizes.linears) * 2 * _FLOAT
    if checkpointing:
        return layers * row * how.weights.itemsize + ends, in_layer + gradients
    return layers * in_layer + ends, gradients


def kept_in_layer(sizes: Geometry, tokens: int, how: Precision) -> int:
    """What one layer keeps: inputs and outputs of its linear layers, its activation function and its norms."""
    layers, cast = int(sizes.config.num_hidden_layers), how.size < how.weights.itemsize
    # LoRA's factors are float32: without autocast, so are the inputs that it keeps.
    lora = how.size if how.autocast else _FLOAT
    linears = sum(outputs * how.size + inputs * lora for outputs, inputs in sizes.linears) // layers
    activation = max(outputs for outputs, _ in sizes.linears) * how.size
    # Norms compute in float32, for which narrower activations are copied.
    norms = int(sizes.config.hidden_size) * 2 * _FLOAT if how.size < _FLOAT else 0
    # Autocast keeps its copies of wider weights.
    return tokens * (linears + activation + norms) + (sizes.packable // layers * how.size if cast else 0)


def head_bytes(sizes: Geometry, batch: Batch, how: Precision, device: str) -> int:
    """The fused LM head, which holds one tile of logits at most: TRL's on a GPU, `label_head` on a CPU."""
    vocabulary = int(sizes.config.vocab_size)
    if device == "cuda":
        tile = min(batch.labels, _TILE_POSITIONS) * _TILE_VOCABULARY * how.size
    else:
        # Logits, probabilities, and what a reduction or the product with the weights takes.
        tile = min(batch.labels, max(1, TILE // vocabulary)) * vocabulary * 3 * _FLOAT
    # Beside the tile: hidden states, their gradient as it is summed and as it is returned; nine numbers.
    states = int(sizes.config.hidden_size) * (2 * how.weights.itemsize + _FLOAT) + 9 * _FLOAT
    return tile + batch.labels * states


def windows_per_pass(recipe: Recipe, window: Window) -> int:
    """How many such windows a scoring pass takes."""
    return max(1, min(recipe.scoring.tokens_per_pass // window.own, SHARD))


def scoring_bytes(sizes: Geometry, window: Window, windows: int, size: int) -> int:
    """A scoring pass under the adapter: keys, values, tree mask and its largest step; numbers have `size` bytes."""
    config, context, tokens = sizes.config, window.static + window.own, windows * window.own
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    head = getattr(config, "head_dim", None) or hidden // heads
    key_values = 2 * head * (getattr(config, "num_key_value_heads", None) or heads)
    # LoRA computes in float32, for which narrower activations are copied.
    copies = 4 * size + (_FLOAT if size < _FLOAT else 0)
    mlp = max(tokens, window.static) * (max(outputs for outputs, _ in sizes.linears) + hidden) * copies
    # Every window's keys and values behind the prefix's, repeated for every query head; the mask as numbers.
    joined = windows * context * (key_values + 2 * hidden) * size
    attention = joined + tokens * (context * _FLOAT + 6 * hidden * size)
    # Three float32 arrays over the vocabulary.
    logits = min(TILE_ROWS, windows * window.outputs) * int(config.vocab_size) * 3 * _FLOAT + tokens * hidden * size
    # Passes that a search asks for go on with the keys and values of the first.
    kept = int(config.num_hidden_layers) * (window.static + tokens) * key_values * size
    return kept + tokens * context + max(mlp, attention, logits)


def changed(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """The recipe with `section.field` overrides."""
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        recipe = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update={name: value})})
    return recipe


def _halves(size: int) -> list[int]:
    return [size >> n for n in range(1, size.bit_length())]


def _as_flags(change: dict[str, Any]) -> str:
    shown = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in change.items()]
    return "set " + " and ".join(shown)
