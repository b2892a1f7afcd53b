"""Training failures as one-line errors: out of memory, disk full, training diverged."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.stage_list import TUNED
from edge_behavior.train.trainer.batch_split import micro_batch_of
from edge_behavior.train.trainer.processes import world_size

_START, _WINDOW = 2, 10
_WORSE = 2.0


class DivergedError(EdgebError):
    """A stage's loss is not finite or has diverged."""


class LossGuard(TrainerCallback):
    """Stops a stage whose loss is not finite or has diverged.

    Diverged: the median of the last ten logged losses is more than twice the larger of the first two. Single losses
    are noisy: with one label per row, one batch's loss may well be half of the next one's.

    Args:
        title: The stage's name, for messages.
        knob: The recipe field of its learning rate.
    """

    def __init__(self, title: str, knob: str) -> None:
        self._title, self._knob = title, knob

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Check a logged training loss; those before a `--resume` count, too.

        Raises:
            DivergedError: the loss is not finite, or has diverged.
        """
        if logs is None or "loss" not in logs:
            return
        losses = [float(row["loss"]) for row in state.log_history if "loss" in row]
        if not math.isfinite(losses[-1]):
            raise DivergedError(
                f"{self._title}: the loss became {losses[-1]} at step {state.global_step}",
                f"lower {self._knob}, or set backbone.dtype to bfloat16 or float32",
            )
        start, now = max(losses[:_START]), median(losses[-_WINDOW:])
        if len(losses) > _WINDOW and now > _WORSE * start:
            raise DivergedError(
                f"{self._title}: the loss diverged, from {start:.3f} to {now:.3f} at step {state.global_step}",
                f"lower {self._knob}",
            )


def explained(error: BaseException, stage: str, recipe: Recipe, run: Path) -> EdgebError | None:
    """A one-line error for memory or disk that ran out in a stage; None for any other error.

    Scoring raises its own.
    """
    if _disk_is_full(error):
        hint = f"free some space, then go on with `edgeb train --resume --out {run}`"
        return EdgebError(f"no space left in {run} during {stage}", hint)
    if is_out_of_memory(error):
        return EdgebError(f"out of memory during {stage}", f"{_knobs(stage, recipe)}; see `edgeb train --dry-run`")
    return None


def _knobs(stage: str, recipe: Recipe) -> str:
    """Settings that would save memory in a stage and are not in use yet, the cheapest first."""
    knobs = []
    if stage in TUNED:
        settings = recipe.tuning(stage)
        micro = micro_batch_of(settings, world_size())
        if not settings.gradient_checkpointing:
            knobs.append(f"set {stage}.gradient_checkpointing=true")
        if micro > 1:
            knobs.append(f"lower {stage}.micro_batch_size (now {micro})")
        if stage == "a_tuning" and recipe.layout.name == "stream":
            knobs.append(f"lower a_tuning.stretch_max (now {recipe.a_tuning.stretch_max})")
    if stage == "backbone":
        knobs.append(f"lower backbone.pretrain_batch_size (now {recipe.backbone.pretrain_batch_size})")
    elif recipe.backbone.quantize == "none" and recipe.backbone.path is not None:
        knobs.append("set backbone.quantize=4bit")
    return ", or ".join(knobs) or "use a device with more memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: an allocator's error, or one of a driver or library, known by its text."""
    if isinstance(error, EdgebError):
        return False
    text = str(error).lower()
    words = ("out of memory", "can't allocate memory", "alloc_failed")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in text for word in words)


def _disk_is_full(error: BaseException) -> bool:
    """By errno, or by text: safetensors, torch and util/files raise errors of their own."""
    text = str(error).lower()
    full = "no space left" in text or "the disk is full" in text
    return full or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
