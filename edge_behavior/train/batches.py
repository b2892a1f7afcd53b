"""The order in which a trainer sees rows: whole batches, the same for any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_POOL = 50  # batches that are sorted by length together


def batched(rows: Sequence[T], lengths: Sequence[int], batch_size: int, seed: int, by_length: bool) -> list[T]:
    """Rows in random order, cut into full batches of `batch_size`.

    Args:
        rows: One epoch's rows. The last batch is filled up with rows from the epoch's beginning.
        lengths: Tokens of each row.
        by_length: Put rows of similar length into the same batch, which saves padding. Batches come in random order;
            the longest comes first, so that running out of memory shows at once.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    missing = -len(order) % batch_size
    order = np.concatenate([order, np.resize(order, missing)])
    if not by_length:
        return [rows[i] for i in order]
    size = np.asarray(lengths)
    pools = [order[start : start + _POOL * batch_size] for start in range(0, len(order), _POOL * batch_size)]
    batches = np.concatenate([pool[np.argsort(-size[pool], kind="stable")] for pool in pools]).reshape(-1, batch_size)
    batches = batches[rng.permutation(len(batches))]
    longest = int(size[batches].max(1).argmax())
    batches[[0, longest]] = batches[[longest, 0]]
    return [rows[i] for i in batches.ravel()]
