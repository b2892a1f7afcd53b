"""Cold start: a table in which every window's user has done nothing before its last few events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_behavior.baselines.system import Ints
from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import positions
from edge_behavior.errors import EdgebError


def known_only(table: EventTable, targets: Ints, known: int | None) -> tuple[EventTable, Ints]:
    """The windows of a table with only the last `known` events before each target, and where their targets are now.

    Every window becomes a user of its own, in the order given, so that whatever counts a user's past sees just that.

    Args:
        targets: [n] positions in the table, in any order.
        known: Events before each target, fewer where the user has fewer; None leaves all as it is.

    Raises:
        EdgebError: `known` is negative.
    """
    if known is None:
        return table, targets
    if known < 0:
        raise EdgebError(f"known is {known}", "use 0 or more events")
    shown = np.minimum(earlier_events(table, targets), known)
    index = positions(targets - shown, targets + 1)
    ends = np.cumsum(shown + 1)
    cut = replace(
        table,
        user_offsets=np.concatenate([[0], ends]).astype(np.int64),
        time=table.time[index],
        place=table.place[index],
        behavior=table.behavior[index],
        users=np.empty(0, np.int32),
        first_targets=None,
        groups=None,
    )
    return cut, np.asarray(ends - 1, dtype=np.int64)


def earlier_events(table: EventTable, targets: Ints) -> Ints:
    """[n] how many events of its user come before each target."""
    return np.asarray(targets - table.user_offsets[table.user_of(targets)], dtype=np.int64)
