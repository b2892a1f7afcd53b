"""Private names of Transformers, where it has no public ones. Tested with 5.24, the only one that training admits."""

from __future__ import annotations

from typing import Any


def attention_of(model: Any) -> str:
    """Name of the attention that a model computes with; `set_attn_implementation` has no counterpart that reads."""
    return str(model.config._attn_implementation)


def use_one_gpu(arguments: Any) -> None:
    """Keep a Trainer's process on one GPU.

    On a machine with several, `TrainingArguments` counts them all and Trainer wraps the model in `nn.DataParallel`; no
    argument says otherwise.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)
