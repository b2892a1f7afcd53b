"""Whether a run fits a device: memory by stage and part, and the first change of the recipe that makes it fit.

Sizes come from `geometry`, passes from `footprint`. What neither sees is not in the numbers: the libraries' own
memory (a CUDA context, kernels), and what an allocator loses to fragmentation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import psutil
import torch

from edge_behavior.errors import EdgebError
from edge_behavior.train.geometry import Geometry
from edge_behavior.train.plan.footprint import (
    Batch,
    Precision,
    Windows,
    head_bytes,
    pretraining_footprint,
    scoring_footprint,
    training_footprint,
)
from edge_behavior.train.recipe import LoraSettings, Recipe
from edge_behavior.train.stages.scoring import SHARD
from edge_behavior.train.trainer.batch_split import micro_batch_of
from edge_behavior.util.numbers import GIB, gib

Stage = Literal["a_tuning", "b_tuning"]
_STAGES: tuple[Stage, ...] = ("a_tuning", "b_tuning")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": GIB}


@dataclass(frozen=True)
class Device:
    """Where a run is planned.

    Attributes:
        kind: `cpu` or `cuda`.
        name: As messages call it.
        available: Bytes a run may take.
        here: Whether it is this machine's, so that its speed can be measured.
        bf16: Whether training computes in bfloat16 there.
        flash: Whether training runs FlashAttention there.
    """

    kind: Literal["cpu", "cuda"]
    name: str
    available: int
    here: bool
    bf16: bool = False
    flash: bool = False


@dataclass(frozen=True)
class Rows:
    """The rows that a stage trains on, per sample: one sequence, or the two of a preference pair.

    Attributes:
        longest: Tokens of the longest row.
        mean: Tokens of a row on average.
        labels: Most positions with a label in one row.
        sequences: Sequences per sample.
    """

    longest: int
    mean: float
    labels: int
    sequences: int = 1

    def batch(self, samples: int, padding_free: bool = False, mean: bool = False) -> Batch:
        """The micro-batch of `samples` longest, or mean, rows."""
        length = math.ceil(self.mean) if mean else self.longest
        count = samples * self.sequences
        labels = count * min(self.labels, length)
        return Batch(1, count * length, labels, False) if padding_free else Batch(count, length, labels, count > 1)


@dataclass(frozen=True)
class Workload:
    """What the data adds to the recipe. A stage that trains nothing has no rows.

    Attributes:
        rows: By stage.
        windows: One scored window, of the longest.
    """

    rows: dict[Stage, Rows]
    windows: Windows


@dataclass(frozen=True)
class Need:
    """Bytes of one stage at its worst moment, by part."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


def this_device() -> Device:
    """The device that training would use here, with what is free on it now."""
    if torch.cuda.is_available():
        from transformers.utils.import_utils import is_flash_attn_2_available

        free = torch.cuda.mem_get_info()[0]
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Device("cuda", torch.cuda.get_device_name(), free, True, bf16, bool(is_flash_attn_2_available()))
    return Device("cpu", "this CPU", psutil.virtual_memory().available, True)


def other_gpu(memory: str) -> Device:
    """A GPU with bfloat16 that is not here, of so much memory ("24GiB").

    Raises:
        EdgebError: not an amount of memory.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?B)?\s*", memory.upper())
    if found is None or not float(found[1]):
        raise EdgebError(f"--device-memory {memory}: not an amount of memory", "for example --device-memory 24GiB")
    return Device("cuda", "that GPU", int(float(found[1]) * _UNITS[found[2] or ""]), False, bf16=True)


def in_one_pass(recipe: Recipe, window: Windows) -> Windows:
    """The batch of such windows that the scoring pass makes."""
    return replace(window, count=max(1, min(recipe.scoring.tokens_per_pass // window.own, SHARD)))


def precision(recipe: Recipe, geometry: Geometry, device: Device) -> Precision:
    """How the backbone is held and computed, as `load_model` and the trainers choose it."""
    dtype: Any = torch.float32
    if recipe.backbone.dtype != "auto":
        dtype = getattr(torch, recipe.backbone.dtype)
    elif device.kind == "cuda" and recipe.backbone.path is not None:
        dtype = geometry.config.dtype or torch.float32
    return Precision(dtype, device.kind == "cuda" and device.bf16)


class Estimator:
    """Memory of recipes that differ in how they train, on one backbone, adapter, dataset and device.

    Footprints are kept, so that trying changes of a recipe measures only what changes.

    Args:
        geometry: The backbone.
        lora: Its adapter.
        workload: The shapes of the passes.
        device: That of each process.
        processes: Among which batches are shared (DDP: each has all weights).
    """

    def __init__(
        self, geometry: Geometry, lora: LoraSettings, workload: Workload, device: Device, processes: int = 1
    ) -> None:
        self._geometry, self._workload, self._device, self._processes = geometry, workload, device, processes
        self._layers = cache(partial(training_footprint, geometry, lora))
        self._head = cache(partial(head_bytes, geometry))
        self._scoring = cache(partial(scoring_footprint, geometry, lora))

    def memory(self, recipe: Recipe) -> dict[str, Need]:
        """What every stage of a run needs at once: weights, adapter, and its passes."""
        geometry, backbone = self._geometry, recipe.backbone
        quantized = backbone.quantize == "4bit"
        how = precision(recipe, geometry, self._device)
        fixed = {
            "weights": geometry.weight_bytes(how.weights, quantized),
            # Factors, gradients and AdamW's two moments, in float32; DDP sends gradients from a copy.
            "adapter": geometry.adapter * 4 * (4 if self._processes == 1 else 5),
        }
        # bitsandbytes unpacks one weight at a time.
        unpacked = max(geometry.linears) * how.weights.itemsize if quantized else 0
        needs: dict[str, Need] = {}
        if backbone.path is None and backbone.pretrain_tokens:
            needs["backbone"] = self._pretraining(recipe)
        for stage in _STAGES:
            if stage in self._workload.rows:
                settings = recipe.a_tuning if stage == "a_tuning" else recipe.b_tuning
                flows = self._device.flash if settings.padding_free is None else settings.padding_free
                batch = self._workload.rows[stage].batch(micro_batch_of(settings, self._processes), flows)
                layers = self._layers(batch, how, settings.gradient_checkpointing)
                head = self._head(batch, how, self._device.kind)
                working = max(0, layers.peak - layers.kept - head) + unpacked
                parts = {"activations": layers.kept, "logits": head, "working": working}
                needs[stage] = Need({**fixed, **parts})
        # Scoring runs outside the trainers' autocast.
        windows = in_one_pass(recipe, self._workload.windows)
        scoring = self._scoring(windows, Precision(how.weights, autocast=False)) + unpacked
        needs["scoring"] = Need({**fixed, "scoring": scoring})
        return needs

    def total(self, recipe: Recipe) -> int:
        """What the most demanding stage needs."""
        return max(need.total for need in self.memory(recipe).values())

    def refusal(self, recipe: Recipe) -> EdgebError | None:
        """Why the recipe cannot run on the device and the first change that helps, or None where it fits."""
        available = self._device.available
        needed = self.total(recipe)
        if needed <= available:
            return None
        message = f"training needs about {gib(needed)}, {self._device.name} has {gib(available)}"
        smallest, least = {}, needed
        for change in self._changes(recipe):
            total = self.total(changed(recipe, change))
            if total <= available:
                return EdgebError(message, _as_flags(change))
            if total < least:
                smallest, least = change, total
        with_changes = f" and {_as_flags(smallest)}" if smallest else ""
        return EdgebError(message, f"use a device with at least {gib(least, up=True)}{with_changes}")

    def _changes(self, recipe: Recipe) -> Iterator[dict[str, Any]]:
        """Overrides to try, the cheapest first: alone, then together."""
        needs = self.memory(recipe)
        tight = [s for s in _STAGES if s in needs and needs[s].total > self._device.available]
        settings = {s: recipe.a_tuning if s == "a_tuning" else recipe.b_tuning for s in tight}
        checkpointing = {f"{s}.gradient_checkpointing": True for s in tight if not settings[s].gradient_checkpointing}
        now = {s: micro_batch_of(settings[s], self._processes) for s in tight}
        smaller = [
            {f"{s}.micro_batch_size": min(size, now[s]) for s in tight if size < now[s]}
            for size in _halves(max(now.values(), default=1))
        ]
        four_bits: dict[str, Any] = {}
        if self._device.kind == "cuda" and recipe.backbone.quantize == "none" and recipe.backbone.path is not None:
            four_bits = {"backbone.quantize": "4bit"}
        alone: list[dict[str, Any]] = [checkpointing, *smaller, four_bits]
        together: list[dict[str, Any]] = [{**checkpointing, **small} for small in smaller if checkpointing]
        if four_bits:
            together += [{**checkpointing, **four_bits}] if checkpointing else []
            together += [{**checkpointing, **small, **four_bits} for small in smaller]
        fewer = self._fewer_tokens(recipe)
        if fewer:
            yield fewer
        for change in (change for change in [*alone, *together] if change):
            yield change
            if fewer:
                yield {**fewer, **change}

    def _fewer_tokens(self, recipe: Recipe) -> dict[str, Any]:
        """What makes a scoring pass fit, or as small as a pass can be; nothing where it fits."""
        change: dict[str, Any] = {}
        for tokens in (recipe.scoring.tokens_per_pass, *_halves(recipe.scoring.tokens_per_pass)):
            if change and tokens < self._workload.windows.own:
                break
            tried = {"scoring.tokens_per_pass": tokens}
            if self.memory(changed(recipe, tried))["scoring"].total <= self._device.available:
                return tried if change else {}
            change = tried
        return change

    def _pretraining(self, recipe: Recipe) -> Need:
        settings = recipe.backbone
        share = settings.pretrain_batch_size // self._processes
        found = pretraining_footprint(self._geometry, share, settings.pretrain_block)
        size = self._geometry.parameters * 4
        parts = {"weights": size, "optimizer": (3 if self._processes == 1 else 4) * size, "activations": found.kept}
        return Need({**parts, "working": found.peak - found.kept})


def changed(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """The recipe with `section.field` overrides."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        section, _, field = key.partition(".")
        sections.setdefault(section, {})[field] = value
    update = {name: getattr(recipe, name).model_copy(update=fields) for name, fields in sections.items()}
    return recipe.model_copy(update=update)


def _halves(size: int) -> list[int]:
    sizes = []
    while size > 1:
        size //= 2
        sizes.append(size)
    return sizes


def _as_flags(change: dict[str, Any]) -> str:
    shown = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in change.items()]
    return "set " + " and ".join(shown)
