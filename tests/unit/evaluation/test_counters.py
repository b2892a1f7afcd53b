"""The simple counters against plain Python over lists of events."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_behavior.evaluation.counters import COUNTERS, Counters, hour_bucket, transition_counts

Event = tuple[datetime, int, int]


@dataclass(frozen=True)
class Columns:
    time: NDArray[np.datetime64]
    place: NDArray[np.int32]
    behavior: NDArray[np.int32]


@dataclass(frozen=True)
class World:
    """Random users, small enough that ties and every back-off level occur."""

    users: list[list[Event]]
    size: int
    length: int
    counts: list[int]

    @property
    def columns(self) -> Columns:
        flat = [event for user in self.users for event in user]
        return Columns(
            np.array([e[0] for e in flat], dtype="datetime64[s]"),
            np.array([e[1] for e in flat], dtype=np.int32),
            np.array([e[2] for e in flat], dtype=np.int32),
        )

    @property
    def offsets(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(user) for user in self.users)]).astype(np.int64)

    @property
    def windows(self) -> list[tuple[list[Event], Event]]:
        """The last L events and the target, for every event that has L before it."""
        return [(u[i - self.length : i], u[i]) for u in self.users for i in range(self.length, len(u))]

    @property
    def targets(self) -> NDArray[np.int64]:
        found = []
        for start, user in zip(self.offsets, self.users, strict=False):
            found += [int(start) + i for i in range(self.length, len(user))]
        return np.array(found, dtype=np.int64)

    @property
    def transitions(self) -> Counter[tuple[int, int]]:
        pairs: Counter[tuple[int, int]] = Counter()
        for user in self.users:
            for before, after in pairwise(user):
                pairs[before[2], after[2]] += 1
        return pairs

    def scores(self, name: str) -> NDArray[np.float64]:
        table = np.zeros((self.size, self.size))
        for pair, count in self.transitions.items():
            table[pair] = count
        counters = Counters(np.array(self.counts, dtype=float), table, self.length)
        return counters.scores(name, self.columns, self.targets)


def world_of(seed: int, places: int = 3) -> World:
    rng = np.random.default_rng(seed)
    size, length = int(rng.integers(2, 7)), int(rng.integers(1, 9))
    users = []
    for _ in range(int(rng.integers(1, 4))):
        time, events = datetime(2024, 1, 1), []
        for _ in range(length + int(rng.integers(1, 12))):
            time += timedelta(minutes=int(rng.integers(0, 900)))
            events.append((time, int(rng.integers(places)), int(rng.integers(size))))
        users.append(events)
    # Distinct, so that the prior orders what no counter has seen.
    counts = (rng.permutation(size) + 1) * int(rng.integers(1, 50))
    return World(users, size, length, counts.tolist())


WORLDS = st.integers(0, 2**31).map(world_of)


def ranked(row: NDArray[np.float64]) -> list[int]:
    assert len(set(row.tolist())) == len(row), "a counter left a tie"
    return np.argsort(-row).tolist()


def order_by(keys: list[Any]) -> list[int]:
    """Codes by falling key."""
    return sorted(range(len(keys)), key=keys.__getitem__, reverse=True)


def matches(world: World, history: list[Event], target: Event, level: str) -> list[tuple[int, int]]:
    """(position, behavior) of the history's events that agree with the next context."""
    found = []
    for position, (time, place, behavior) in enumerate(history):
        same_hour = time.hour // 2 == target[0].hour // 2
        agrees = {
            "all": True,
            "hour": same_hour,
            "place": place == target[1],
            "place+hour": same_hour and place == target[1],
        }
        if agrees[level]:
            found.append((position, behavior))
    return found


@settings(max_examples=60, deadline=None)
@given(WORLDS)
def test_most_frequent(world):
    expected = order_by(world.counts)
    assert all(ranked(row) == expected for row in world.scores("most_frequent"))


@settings(max_examples=60, deadline=None)
@given(WORLDS)
def test_last_mode_breaks_ties_by_recency_then_by_training_frequency(world):
    for row, (history, _) in zip(world.scores("last_mode"), world.windows, strict=True):
        behaviors = [event[2] for event in history]
        latest = {b: position for position, b in enumerate(behaviors)}
        keys = [(behaviors.count(b), latest.get(b, -1), world.counts[b]) for b in range(world.size)]
        assert ranked(row) == order_by(keys)


@settings(max_examples=60, deadline=None)
@given(WORLDS)
def test_markov_looks_at_the_last_behavior_only(world):
    transitions = world.transitions
    for row, (history, _) in zip(world.scores("markov_1"), world.windows, strict=True):
        assert ranked(row) == order_by([(transitions[history[-1][2], b], world.counts[b]) for b in range(world.size)])


BACK_OFF = {"hour_mode": ("hour", "all"), "place_hour_backoff": ("place+hour", "place", "hour", "all")}


@pytest.mark.parametrize("name", BACK_OFF)
@settings(max_examples=80, deadline=None)
@given(world=WORLDS)
def test_back_off_levels_outrank_each_other(name, world):
    """Each level's counts decide; recency breaks ties inside a level; the next level comes after; then the prior."""
    for row, (history, target) in zip(world.scores(name), world.windows, strict=True):
        keys = []
        for behavior in range(world.size):
            key: list[float] = []
            for level in BACK_OFF[name]:
                positions = [p for p, b in matches(world, history, target, level) if b == behavior]
                key += [len(positions), max(positions, default=-1)]
            keys.append((*key, world.counts[behavior]))
        assert ranked(row) == order_by(keys)


@settings(max_examples=60, deadline=None)
@given(WORLDS)
def test_transitions_stay_inside_a_user(world):
    found = transition_counts(world.columns, world.offsets, world.size)
    assert found.sum() == sum(len(user) - 1 for user in world.users)
    expected = world.transitions
    assert all(found[a, b] == expected[a, b] for a in range(world.size) for b in range(world.size))


@settings(max_examples=60, deadline=None)
@given(st.datetimes(datetime(1960, 1, 1), datetime(2060, 1, 1)))
def test_hour_buckets_are_of_two_hours(when):
    assert hour_bucket(np.array([when], dtype="datetime64[s]")).tolist() == [when.hour // 2]


def test_by_hand():
    day = datetime(2024, 5, 1)
    history = [
        (day.replace(hour=8), 0, 0),
        (day.replace(hour=9), 1, 1),
        (day.replace(hour=13), 1, 2),
        (day.replace(hour=14), 0, 2),
    ]
    world = World([[*history, (day.replace(day=2, hour=9), 1, 1)]], 4, 4, [4, 3, 2, 1])
    best = {name: ranked(world.scores(name)[0])[0] for name in COUNTERS}
    assert best == {
        "most_frequent": 0,
        "last_mode": 2,
        "markov_1": 1,  # 2 was followed by 1 and by 2 once each; 1 is the more frequent in training
        "hour_mode": 1,
        "place_hour_backoff": 1,
    }


def test_a_place_never_seen_backs_off_to_the_hour():
    day = datetime(2024, 5, 1)
    events = [(day.replace(hour=8), 0, 0), (day.replace(hour=20), 0, 1), (day.replace(hour=21), 0, 1)]
    world = World([[*events, (day.replace(day=2, hour=9), 5, 0)]], 2, 3, [1, 2])
    assert ranked(world.scores("place_hour_backoff")[0]) == ranked(world.scores("hour_mode")[0]) == [0, 1]
    assert ranked(world.scores("last_mode")[0]) == [1, 0]


def test_counters_do_not_see_the_target():
    """Changing what happens next, or later, changes no score."""
    world = world_of(4)
    other = World([[*user[:-1], (*user[-1][:2], (user[-1][2] + 1) % world.size)] for user in world.users],
                  world.size, world.length, world.counts)  # fmt: skip
    table = np.zeros((world.size, world.size))
    for name in COUNTERS:
        scores = [
            Counters(np.array(w.counts, dtype=float), table, w.length).scores(name, w.columns, w.targets)
            for w in (world, other)
        ]
        np.testing.assert_array_equal(scores[0], scores[1])


def test_nothing_counted_is_no_error():
    world = world_of(1)
    scores = Counters(np.zeros(world.size), np.zeros((world.size, world.size)), world.length)
    for name in COUNTERS:
        assert np.isfinite(scores.scores(name, world.columns, world.targets)).all()
