"""The order in which a trainer sees rows: whole batches, the same for any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")
_POOL = 50  # batches that are sorted by length together


def batch_order(lengths: ArrayLike, batch_size: int, seed: int, by_length: bool) -> NDArray[np.int64]:
    """Positions of an epoch's rows in random order, cut into full batches of `batch_size`.

    Args:
        lengths: Tokens of each row.
        by_length: Put rows of similar length into the same batch, which saves padding. Batches come in random order;
            the longest comes first, so that running out of memory shows at once.

    Returns:
        int64, a multiple of `batch_size`: the last batch is filled up with rows from the epoch's beginning.
    """
    rng = np.random.default_rng(seed)
    size = np.asarray(lengths)
    order = rng.permutation(len(size))
    missing = -len(order) % batch_size
    order = np.concatenate([order, np.resize(order, missing)])
    if not by_length:
        return order
    pools = [order[start : start + _POOL * batch_size] for start in range(0, len(order), _POOL * batch_size)]
    batches = np.concatenate([pool[np.argsort(-size[pool], kind="stable")] for pool in pools]).reshape(-1, batch_size)
    batches = batches[rng.permutation(len(batches))]
    longest = int(size[batches].max(1).argmax())
    batches[[0, longest]] = batches[[longest, 0]]
    return np.asarray(batches.ravel(), dtype=np.int64)


def batched(rows: Sequence[T], lengths: Sequence[int], batch_size: int, seed: int, by_length: bool) -> list[T]:
    """One epoch's rows in the order of `batch_order`."""
    return [rows[i] for i in batch_order(lengths, batch_size, seed, by_length)]
