"""What varies together, and so is drawn together when an interval is made or a fold is left out.

A dataset split by users is measured on people it has not seen: whole users are drawn, or whole groups of them. One split
by time is measured on later days of people it knows: blocks of days are drawn. docs/splits.md has the reasons.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import positions

# A week holds a person's routine once; fewer blocks than these say nothing of how they differ.
BLOCK_DAYS, FEWEST_BLOCKS = 7, 10

Ints = NDArray[np.int64]


def resampling_units(table: EventTable, targets: ArrayLike) -> Ints:
    """[n] the unit of each window: equal numbers are drawn together.

    Args:
        targets: [n] positions in the table.
    """
    targets = np.asarray(targets, dtype=np.int64)
    owners = _owners(table, targets)
    if table.first_targets is None:
        return owners
    return _blocks(table, targets, owners, block_days(table))


def block_days(table: EventTable) -> int:
    """Days per block of a table that was split by time: a week, or as many fewer as leave ten blocks; at least one."""
    # Every event that may be a target, whatever the history's length: the same blocks for all windows of a part.
    targets = positions(table.target_starts, table.user_offsets[1:])
    owners = _owners(table, targets)
    for days in range(BLOCK_DAYS, 1, -1):
        if len(np.unique(_blocks(table, targets, owners, days))) >= FEWEST_BLOCKS:
            return days
    return 1


def resampling_facts(table: EventTable) -> dict[str, Any]:
    """The kind of unit, for reports: `unit` is `users`, `groups` or `day_blocks`, `days` a block's length or None."""
    if table.first_targets is not None:
        return {"unit": "day_blocks", "days": block_days(table)}
    return {"unit": "users" if table.groups is None else "groups", "days": None}


def _owners(table: EventTable, targets: Ints) -> Ints:
    """[n] the user of each window, or the user's group."""
    users = table.user_of(targets)
    return users if table.groups is None else table.groups[users].astype(np.int64)


def _blocks(table: EventTable, targets: Ints, owners: Ints, days: int) -> Ints:
    block = table.time[targets].astype("datetime64[D]").astype(np.int64) // days
    first = block.min(initial=0)
    return np.asarray(owners * (block.max(initial=0) - first + 1) + block - first, dtype=np.int64)

