"""Windows: a target event of a split and the same user's events before it, from any split.

A window is its target's index in an `EventTable`; the history follows from it. All sampling is deterministic by seed,
vectorized, and returned sorted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_behavior.data.dataset import HISTORY_LENGTH, EventTable
from edge_behavior.errors import EdgebError

# A log of one person is evaluated on as many windows as this many test users would give.
FEW_USERS = 10


def eligible(table: EventTable, history_length: int = HISTORY_LENGTH) -> NDArray[np.int64]:
    """Every event of the table's split that has a full history: the targets [W], ascending."""
    _at_least_zero("history_length", history_length)
    sizes = np.diff(table.user_offsets)
    mask = np.ones(len(table), dtype=bool)
    # Marks the first events of each user by position, so that memory is one byte per event.
    heads = np.minimum(sizes, np.maximum(history_length, table.target_starts - table.user_offsets[:-1]))
    mask[positions(table.user_offsets[:-1], table.user_offsets[:-1] + heads)] = False
    return np.flatnonzero(mask).astype(np.int64, copy=False)


def positions(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """All positions from each start to its stop, exclusive, span after span."""
    sizes = stops - starts
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(np.repeat(starts, sizes) + within, dtype=np.int64)


def natural_windows(
    table: EventTable,
    history_length: int = HISTORY_LENGTH,
    per_user: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Targets as they occur in the log: all eligible ones, or a random sample.

    Args:
        per_user: At most this many per user, without replacement; more per user in a dataset split by time that has
            fewer than `FEW_USERS` users, to make up for the missing ones.
        limit: At most this many in all, sampled after `per_user`.
        seed: Of the sampling.
    """
    targets = eligible(table, history_length)
    rng = np.random.default_rng(seed)
    if per_user is not None:
        _at_least_zero("per_user", per_user)
        users = table.user_of(targets)
        order = np.lexsort((rng.random(len(targets)), users))
        counts = np.bincount(users, minlength=len(table.user_offsets) - 1)
        if table.first_targets is not None:
            per_user = max(per_user, -(-FEW_USERS * per_user // max(1, int((counts > 0).sum()))))
        rank = np.arange(len(targets)) - np.repeat(np.cumsum(counts) - counts, counts)
        targets = targets[order[rank < per_user]]
    if limit is not None:
        _at_least_zero("limit", limit)
        targets = _choose(rng, targets, limit)
    return np.sort(targets)


def natural_stretches(
    table: EventTable, history_length: int, length: int, per_user: int, limit: int, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Stretches of consecutive targets of one user, so that each window's prompt begins with the one before.

    Every user gives one stretch before any gives a second, so that few windows are of many users.

    Args:
        length: Targets per stretch; fewer at the end of a user's events.
        per_user: At most this many targets per user, more in a split by time as for `natural_windows`.
        limit: At most this many targets in all; whole stretches, but for the last.
        seed: Of the choice.

    Returns:
        The targets of each stretch, ascending; stretches in the order in which to use them, so that any first few are
        a sample, too.
    """
    _at_least_zero("per_user", per_user)
    _at_least_zero("limit", limit)
    targets = eligible(table, history_length)
    rng = np.random.default_rng(seed)
    # A user's targets are consecutive.
    spans = np.split(targets, np.flatnonzero(np.diff(table.user_of(targets))) + 1) if len(targets) else []
    if table.first_targets is not None:
        per_user = max(per_user, -(-FEW_USERS * per_user // max(1, len(spans))))
    turns: list[tuple[int, float, NDArray[np.int64]]] = []
    for span in spans:
        cuts = np.arange(int(rng.integers(min(length, len(span)))), len(span), length)
        blocks = [block for block in np.split(span, cuts) if len(block)]
        left = per_user
        for turn, chosen in enumerate(rng.permutation(len(blocks))):
            block = blocks[chosen][:left]
            left -= len(block)
            if len(block):
                turns.append((turn, float(rng.random()), block))
    turns.sort(key=lambda found: found[:2])
    stretches = []
    for _, _, block in turns:
        if limit <= 0:
            break
        stretches.append(block[:limit])
        limit -= len(block)
    return stretches


def evenings(table: EventTable, history_length: int, length: int, limit: int, seed: int = 0) -> list[NDArray[np.int64]]:
    """The last targets of users' days, which a session sees one after the other.

    Args:
        length: Targets of each day; days that have fewer come last.
        limit: At most this many targets in all; whole evenings, but for the last.
        seed: Of the choice.

    Returns:
        The targets of each evening, ascending; evenings in the order in which to use them.
    """
    _at_least_zero("limit", limit)
    targets = eligible(table, history_length)
    days = table.time[targets].astype("datetime64[D]").astype(np.int64)
    cuts = np.flatnonzero((np.diff(table.user_of(targets)) != 0) | (np.diff(days) != 0)) + 1
    ends = [day[len(day) - min(length, len(day)) :] for day in np.split(targets, cuts)]
    order = np.random.default_rng(seed).permutation(len(ends))
    found = []
    for i in sorted(order, key=lambda i: -len(ends[i])):
        if limit <= 0 or not len(ends[i]):
            break
        found.append(ends[i][:limit])
        limit -= len(found[-1])
    return found


def balanced_windows(
    table: EventTable,
    per_behavior: int,
    history_length: int = HISTORY_LENGTH,
    seed: int = 0,
    among: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Up to `per_behavior` eligible targets of every behavior; all of them where there are fewer.

    Args:
        table: The events.
        per_behavior: At most this many of each.
        history_length: Events that a window needs before its target.
        seed: Of the sampling.
        among: [events] which events may be targets; None for all.
    """
    _at_least_zero("per_behavior", per_behavior)
    targets = eligible(table, history_length)
    if among is not None:
        targets = targets[among[targets]]
    rng = np.random.default_rng(seed)
    # Codes fit in 16 bits, which NumPy sorts in linear time (radix sort).
    codes = table.behavior[targets].astype(np.int16)
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=len(table.candidates))
    groups = np.split(order, np.cumsum(counts)[:-1])
    chosen = [_choose(rng, group, per_behavior) for group in groups]
    return np.sort(targets[np.concatenate(chosen)])


def _choose(rng: np.random.Generator, items: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    if number >= len(items):
        return items
    return np.asarray(items[rng.choice(len(items), number, replace=False, shuffle=False)], dtype=np.int64)


def _at_least_zero(name: str, value: int) -> None:
    if value < 0:
        raise EdgebError(f"{name} is {value}", "use 0 or more")
