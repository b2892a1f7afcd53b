"""Resampling units of windows for confidence intervals: users, groups of users, or blocks of days.

A dataset split by users is evaluated on unseen people: whole users are resampled, or whole groups of them. One split by
time is evaluated on later days of known people: blocks of days are resampled. docs/evaluate.md has the reasons.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import positions
from edge_behavior.util.resampling import Resampling

# A week covers a weekly routine once; an interval over fewer than ten blocks says little.
BLOCK_DAYS, FEWEST_BLOCKS = 7, 10

# Day 0 (1 January of year 1) relative to 1970, and the number of days to the year 9999.
_FIRST_DAY, _MOST_DAYS = -719_162, 3_652_059

Ints = NDArray[np.int64]


def resampling(table: EventTable, targets: ArrayLike) -> Resampling:
    """The resampling unit of each window.

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
    """Days per block in a table split by time: a week, or fewer if that leaves less than ten blocks; at least one."""
    # Every event that may be a target, whatever the history length: all windows of a split share the same blocks.
    targets = positions(table.target_starts, table.user_offsets[1:])
    owners = _owners(table, targets)
    for days in range(BLOCK_DAYS, 1, -1):
        if len(np.unique(_blocks(table, targets, owners, days))) >= FEWEST_BLOCKS:
            return days
    return 1


def _owners(table: EventTable, targets: Ints) -> Ints:
    """[n] the user of each window, or their group."""
    users = table.user_of(targets)
    return users if table.groups is None else table.groups[users].astype(np.int64)


def _blocks(table: EventTable, targets: Ints, owners: Ints, days: int) -> Ints:
    """[n] number of each window's owner and calendar block of `days` days; does not depend on the other windows."""
    day = table.time[targets].astype("datetime64[D]").astype(np.int64) - _FIRST_DAY
    return np.asarray(owners * _MOST_DAYS + day // days, dtype=np.int64)
