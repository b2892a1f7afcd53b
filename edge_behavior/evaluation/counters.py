"""Five simple counters that a learned model has to beat: no training beyond counting.

They see what the model sees: the user's last L events, and the time and place of the next one. Scores are counts with
ties broken by recency, so that a counter ranks all candidates like a model.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Hours; of 1, 2, 3, 4, 6, 8 and 12 the best for the back-off counter on Foursquare-NYC's validation users.
HOUR_BUCKET = 2
COUNTERS = ("most_frequent", "last_mode", "markov_1", "hour_mode", "place_hour_backoff")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class EventColumns(Protocol):
    """The columns of `data.dataset.EventTable` that counters read."""

    @property
    def time(self) -> NDArray[np.datetime64]:
        """Local time per event."""

    @property
    def place(self) -> NDArray[np.int32]:
        """Place code per event."""

    @property
    def behavior(self) -> NDArray[np.int32]:
        """Candidate code per event."""


def hour_bucket(time: NDArray[np.datetime64]) -> Ints:
    """Bucket of the local hour of the day, from 0."""
    hours = time.astype("datetime64[h]").astype(np.int64) % 24
    return np.asarray(hours // HOUR_BUCKET, dtype=np.int64)


class Counters:
    """The five counters over windows of one table.

    Args:
        train_counts: [B] training events per candidate, for `most_frequent` and as the last level of the others.
        transitions: [B, B] training counts of (previous, next), for `markov_1`.
        history_length: L; every window must have that many earlier events.
    """

    def __init__(self, train_counts: Floats, transitions: Floats, history_length: int) -> None:
        self._prior = train_counts / max(train_counts.sum(), 1.0)
        self._transitions = transitions
        self._length = history_length

    def scores(self, name: str, table: EventColumns, targets: Ints) -> Floats:
        """[n, B] scores of counter `name` at windows, given by the index of their target event."""
        if name == "most_frequent":
            return np.broadcast_to(self._prior, (len(targets), len(self._prior))).copy()
        if name == "markov_1":
            return np.asarray(self._transitions[table.behavior[targets - 1]] + self._prior)
        index = targets[:, None] - np.arange(self._length, 0, -1)
        same_place = table.place[index] == table.place[targets][:, None]
        buckets = hour_bucket(table.time)
        same_hour = buckets[index] == buckets[targets][:, None]
        always = np.ones_like(same_place)
        levels = {
            "last_mode": (always,),
            "hour_mode": (same_hour, always),
            "place_hour_backoff": (same_place & same_hour, same_place, same_hour, always),
        }[name]
        return self._backed_off(table.behavior[index], levels)

    def _backed_off(self, behaviors: NDArray[np.int32], levels: tuple[NDArray[np.bool_], ...]) -> Floats:
        n, size = len(behaviors), len(self._prior)
        # A level outranks all below it; recency breaks ties inside a level; the prior comes last.
        recency = np.arange(1.0, self._length + 1)
        total = np.broadcast_to(self._prior * 1e-3, (n, size)).copy()
        rows = np.repeat(np.arange(n), self._length)
        scale = 1.0
        for level in reversed(levels):
            counts, latest = np.zeros((n, size)), np.zeros((n, size))
            np.add.at(counts, (rows, behaviors.ravel()), level.ravel().astype(np.float64))
            np.maximum.at(latest, (rows, behaviors.ravel()), (level * recency).ravel())
            total += scale * (2 * self._length * counts + latest)
            scale *= 4 * self._length**2
        return total


def transition_counts(table: EventColumns, user_offsets: Ints, size: int) -> Floats:
    """[B, B] counts of consecutive behaviors inside each user's events."""
    previous, following = table.behavior[:-1], table.behavior[1:]
    same_user = np.ones(len(following), dtype=np.bool_)
    same_user[user_offsets[1:-1] - 1] = False
    counts = np.zeros((size, size))
    np.add.at(counts, (previous[same_user], following[same_user]), 1.0)
    return counts
