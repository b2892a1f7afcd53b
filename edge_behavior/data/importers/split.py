"""Which part of a dataset an event belongs to: 8:1:1 by users, by groups of users, or by each user's own time.

One description serves all: per user, how many of the first events are training's, and how many more validation's. Knows
counts and names, no events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.data.dataset import SPLITS
from edge_behavior.errors import EdgebError

# By users (or whole groups of them), or by time within every user.
SPLIT_KINDS = ("users", "time")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """Where every user's events go.

    Attributes:
        counts: [U] events of each user.
        bounds: [U, 2] of a user's events in time order, those before the first bound are training's, those from there
            to the second validation's, the rest test's.
    """

    counts: Ints
    bounds: Ints

    def of(self, users: NDArray[np.integer], ranks: Ints) -> Ints:
        """[n] index into SPLITS of each user's event with that number, from 0."""
        held = self.bounds[users]
        return np.asarray((ranks >= held[:, 0]).astype(np.int64) + (ranks >= held[:, 1]), dtype=np.int64)

    def begins(self, part: int) -> Ints:
        """[U] number of each user's first event of a part."""
        return np.zeros_like(self.counts) if part == 0 else self.bounds[:, part - 1]

    def ends(self, part: int) -> Ints:
        """[U] number of the event after each user's last one of a part."""
        return self.counts if part == 2 else self.bounds[:, part]

    def facts(self, part: int, history_length: int) -> dict[str, int]:
        """`users`, `events` and `windows` of a part; a window's history may begin in an earlier part."""
        begins, ends = self.begins(part), self.ends(part)
        sizes = ends - begins
        windows = np.maximum(ends - np.maximum(begins, history_length), 0)
        return {"users": int((sizes > 0).sum()), "events": int(sizes.sum()), "windows": int(windows.sum())}

    def names(self) -> list[str | None]:
        """[U] the part that has all of a user's events; None where they are in several."""
        whole = np.stack([self.ends(i) - self.begins(i) == self.counts for i in range(len(SPLITS))])
        return [SPLITS[int(column.argmax())] if column.any() else None for column in whole.T]


def split_users(counts: Ints, groups: Sequence[str], seed: int, log: str, at_least: int) -> Parts:
    """Whole users, and all users of a group alike: 8:1:1 of the groups, at least one each.

    Args:
        counts: [U] events per user.
        groups: [U] the group of each user; the users' own names where each is a group of its own.
        log: The file, for error messages.
        at_least: Events that a user needed to be kept, for error messages.

    Raises:
        EdgebError: fewer than three groups.
    """
    names, group = np.unique(np.array(groups, dtype=object), return_inverse=True)
    if len(names) < len(SPLITS):
        raise _too_few(counts, len(names), log, at_least)
    held_out = max(1, round(len(names) / 10))
    order = np.random.default_rng(seed).permutation(len(names))
    part = np.zeros(len(names), dtype=np.int64)
    part[order[len(names) - 2 * held_out : len(names) - held_out]] = 1
    part[order[len(names) - held_out :]] = 2
    of_user = part[group]
    return Parts(counts, np.stack([np.where(of_user == 0, counts, 0), np.where(of_user == 2, 0, counts)], axis=1))


def split_time(counts: Ints, log: str, at_least: int) -> Parts:
    """The last two tenths of every user's events, at least one each, are validation and test.

    Raises:
        EdgebError: no user was kept.
    """
    if not len(counts):
        raise _too_few(counts, 0, log, at_least)
    held_out = np.maximum(1, np.rint(counts / 10).astype(np.int64))
    return Parts(counts, np.stack([counts - 2 * held_out, counts - held_out], axis=1))


def _too_few(counts: Ints, groups: int, log: str, at_least: int) -> EdgebError:
    users = len(counts)
    if users == 0:
        return EdgebError(f"{log}: no user has at least {at_least} events", "pass a longer log, or lower --min-events")
    few = f"only {users} user{'s have' if users > 1 else ' has'} at least {at_least} events"
    if groups < users:
        few += f", in {groups} group{'s' if groups > 1 else ''}"
    return EdgebError(
        f"{log}: {few}",
        f"a split by users needs three {'groups' if groups < users else 'such users'}: pass a longer log, lower "
        "--min-events, or split each user's events by time with --split time",
    )
