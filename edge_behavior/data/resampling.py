"""Which windows of a table vary together: those of a user, of a group of users, or of a block of days.

A dataset split by users is measured on people it has not seen: whole users are drawn, or whole groups of them. One
split by time is measured on later days of people it knows: blocks of days are drawn. docs/evaluate.md has the reasons.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import positions
from edge_behavior.util.resampling import Resampling

# A week holds a person's routine once; fewer blocks than these say little of how they differ.
BLOCK_DAYS, FEWEST_BLOCKS = 7, 10

# Days that times can have, from year 1 to 9999.
_FIRST_DAY, _MOST_DAYS = -719_162, 3_652_059

Ints = NDArray[np.int64]


def resampling(table: EventTable, targets: ArrayLike) -> Resampling:
    """The units of windows.

    Args:
        targets: [n] positions in the table.
    """
    at = np.asarray(targets, dtype=np.int64)
    owners = _owners(table, at)
    if table.first_targets is None:
        return Resampling(owners, "users" if table.groups is None else "groups")
    days = block_days(table)
    return Resampling(_blocks(table, at, owners, days), "day_blocks", days)


def block_days(table: EventTable) -> int:
    """Days per block of a table that was split by time: a week, or as many fewer as leave ten blocks; at least one."""
    # Every event that may be a target, whatever the history's length: the same blocks for all windows of a part.
    targets = positions(table.target_starts, table.user_offsets[1:])
    owners = _owners(table, targets)
    for days in range(BLOCK_DAYS, 1, -1):
        if len(np.unique(_blocks(table, targets, owners, days))) >= FEWEST_BLOCKS:
            return days
    return 1


def _owners(table: EventTable, targets: Ints) -> Ints:
    """[n] the user of each window, or the user's group."""
    users = table.user_of(targets)
    return users if table.groups is None else table.groups[users].astype(np.int64)


def _blocks(table: EventTable, targets: Ints, owners: Ints, days: int) -> Ints:
    """[n] a number per owner and block of so many days of the calendar, the same whichever windows are asked about."""
    day = table.time[targets].astype("datetime64[D]").astype(np.int64) - _FIRST_DAY
    return np.asarray(owners * _MOST_DAYS + day // days, dtype=np.int64)
