"""How many batches a stage trains on, and in which order: the same for any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.train.recipe import StageConfig
from edge_behavior.train.rows.lazy import OrderedRows, Rows

T = TypeVar("T")
_SORTED_TOGETHER = 50  # batches


def batch_order(lengths: ArrayLike, batch_size: int, seed: int, by_length: bool) -> NDArray[np.int64]:
    """Positions of an epoch's rows in random order, cut into full batches of `batch_size`.

    Args:
        lengths: Tokens of each row.
        by_length: Put rows of similar length into the same batch, which saves padding. Batches come in random order,
            but the longest comes first, so that running out of memory shows at once.

    Returns:
        int64, a multiple of `batch_size`: the last batch is filled up with rows from the epoch's start.
    """
    rng = np.random.default_rng(seed)
    size = np.asarray(lengths)
    order = rng.permutation(len(size))
    missing = -len(order) % batch_size
    order = np.concatenate([order, np.resize(order, missing)])
    if not by_length:
        return order
    span = _SORTED_TOGETHER * batch_size
    parts = [order[start : start + span] for start in range(0, len(order), span)]
    batches = np.concatenate([part[np.argsort(-size[part], kind="stable")] for part in parts]).reshape(-1, batch_size)
    batches = batches[rng.permutation(len(batches))]
    longest = int(size[batches].max(1).argmax())
    batches[[0, longest]] = batches[[longest, 0]]
    return np.asarray(batches.ravel(), dtype=np.int64)


def batched(rows: Sequence[T], lengths: Sequence[int], batch_size: int, seed: int, by_length: bool) -> list[T]:
    """One epoch's rows in the order of `batch_order`."""
    return [rows[i] for i in batch_order(lengths, batch_size, seed, by_length)]


def batched_rows(rows: Rows, stage: StageConfig, seed: int, by_length: bool) -> Rows:
    """One epoch's rows in a stage's batches, see `batch_order`."""
    return OrderedRows(rows, batch_order(rows.lengths, stage.batch_size, seed, by_length))


def steps_of(stage: StageConfig, rows_per_epoch: int, epochs: float) -> tuple[int, int]:
    """Optimizer steps of one epoch and of the whole stage, which has at most `epochs`."""
    per_epoch = max(1, -(-rows_per_epoch // stage.batch_size))
    total = max(1, round(per_epoch * min(stage.epochs, epochs)))
    return per_epoch, min(total, stage.max_steps or total)
