"""Splits: 8:1:1 of the users, of groups of users, or of each user's events by time.

Either way a split is two bounds per user: where the training events end, and where the validation events end. Knows
counts and names, not events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.data.dataset import SPLITS
from edge_behavior.data.info import SplitCounts
from edge_behavior.errors import EdgebError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SplitBounds:
    """Which of every user's events, in time order, are in which split.

    Attributes:
        counts: [U] events of each user.
        bounds: [U, 2] training events come before the first bound, validation events before the second, then test.
    """

    counts: Ints
    bounds: Ints

    def of(self, users: NDArray[np.integer], ranks: Ints) -> Ints:
        """[n] index into SPLITS of each event, given its user and its rank among that user's events, from 0."""
        held = self.bounds[users]
        return np.asarray((ranks >= held[:, 0]).astype(np.int64) + (ranks >= held[:, 1]), dtype=np.int64)

    def begins(self, split: int) -> Ints:
        """[U] rank of each user's first event in a split."""
        return np.zeros_like(self.counts) if split == 0 else self.bounds[:, split - 1]

    def ends(self, split: int) -> Ints:
        """[U] rank after each user's last event in a split."""
        return self.counts if split == 2 else self.bounds[:, split]

    def sizes(self, split: int, history_length: int) -> SplitCounts:
        """Users, events and windows of a split; a window's history may begin in an earlier split."""
        begins, ends = self.begins(split), self.ends(split)
        sizes = ends - begins
        windows = np.maximum(ends - np.maximum(begins, history_length), 0)
        return SplitCounts(int((sizes > 0).sum()), int(sizes.sum()), int(windows.sum()))

    def names(self) -> list[str | None]:
        """[U] the split that has all of a user's events; None where they are in several."""
        whole = np.stack([self.ends(i) - self.begins(i) == self.counts for i in range(len(SPLITS))])
        return [SPLITS[int(column.argmax())] if column.any() else None for column in whole.T]


def split_users(counts: Ints, groups: Sequence[str], seed: int, log: str, at_least: int) -> SplitBounds:
    """Split 8:1:1 by groups of users, with at least one group per split.

    Args:
        counts: [U] events per user.
        groups: [U] the group of each user; the users' own names where users are not grouped.
        log: The file, for error messages.
        at_least: The minimum number of events per user, for error messages.

    Raises:
        EdgebError: fewer than three groups.
    """
    names, group = np.unique(np.array(groups, dtype=object), return_inverse=True)
    if len(names) < len(SPLITS):
        raise _too_few(counts, len(names), log, at_least)
    held_out = max(1, round(len(names) / 10))
    order = np.random.default_rng(seed).permutation(len(names))
    split = np.zeros(len(names), dtype=np.int64)
    split[order[len(names) - 2 * held_out : len(names) - held_out]] = 1
    split[order[len(names) - held_out :]] = 2
    of_user = split[group]
    return SplitBounds(counts, np.stack([np.where(of_user == 0, counts, 0), np.where(of_user == 2, 0, counts)], axis=1))


def split_time(counts: Ints, log: str, at_least: int) -> SplitBounds:
    """Split by time: validation and test are the last two tenths of every user's events, at least one event each.

    Raises:
        EdgebError: there is no user.
    """
    if not len(counts):
        raise _too_few(counts, 0, log, at_least)
    held_out = np.maximum(1, np.rint(counts / 10).astype(np.int64))
    return SplitBounds(counts, np.stack([counts - 2 * held_out, counts - held_out], axis=1))


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
        "--min-events, or split every user's events by time with --split time",
    )
