"""Which dtype a recipe's `backbone.dtype: auto` stands for on this machine.

On a CPU bfloat16 halves the memory, and is faster where the CPU has instructions for it; elsewhere it is emulated, and
several times slower. So it is tried, on matrices of the backbone's own shape. The choice is made once per run and
recorded there: a run that goes on elsewhere keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from edge_behavior.train.recipe import BackboneConfig

# How much faster bfloat16 must be: next to products, other work gains nothing.
_WORTH = 1.2
# FLOPs of one trial and its rows, how often it is repeated, and the smallest matrix for which it is worth the question.
_WORK, _ROWS, _REPEATS, _SMALL = 1e9, (64, 512), 3, 2**19


@dataclass(frozen=True)
class Computing:
    """What `auto` stands for: a dtype of `BackboneConfig`, and why."""

    dtype: str
    why: str


def chosen_dtype(settings: BackboneConfig, config: Any) -> Computing:
    """What `auto` stands for here; on a CPU after a trial of about a tenth of a second.

    Args:
        settings: With `dtype: auto`; without a path they describe a stand-in.
        config: The backbone's Transformers configuration; unused for a stand-in.
    """
    if torch.cuda.is_available():
        stored = None if settings.path is None else config.dtype
        return Computing(str(stored or torch.float32).removeprefix("torch."), "the checkpoint's, on a GPU")
    if settings.path is None:
        return Computing("float32", "the stand-in is small")
    sizes = config.get_text_config()
    hidden, inner = int(sizes.hidden_size), int(getattr(sizes, "intermediate_size", None) or 4 * sizes.hidden_size)
    if hidden * inner < _SMALL:
        return Computing("float32", "the backbone is small")
    if not any(name.endswith("bf16") and has for name, has in torch.cpu.get_capabilities().items()):
        return Computing("float32", "this CPU has no instructions for bfloat16")
    times_as_fast = bfloat16_speed(hidden, inner)
    why = f"bfloat16 matrix products are {times_as_fast:.1f} times as fast as float32 here"
    return Computing("bfloat16" if times_as_fast >= _WORTH else "float32", why)


def bfloat16_speed(hidden: int, inner: int) -> float:
    """How many times as fast as in float32 a feed-forward layer of these widths is in bfloat16, on this CPU."""
    fewest, most = _ROWS
    rows = max(fewest, min(most, int(_WORK / (2 * hidden * inner))))
    best: dict[torch.dtype, float] = {}
    # In turns, so that another program's load meets both.
    for trial in range(1 + _REPEATS):
        for dtype in (torch.float32, torch.bfloat16):
            states, weight = (torch.ones(count, hidden, dtype=dtype) for count in (rows, inner))
            started = perf_counter()
            torch.nn.functional.linear(states, weight)
            seconds = perf_counter() - started
            if trial:
                best[dtype] = min(seconds, best.get(dtype, seconds))
    return best[torch.float32] / best[torch.bfloat16]
