"""Windows against brute force: full histories, one user, never the target itself; choices deterministic and fair."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import balanced_windows, eligible, evenings, natural_stretches, natural_windows
from edge_behavior.errors import EdgebError

LABELS = ["A", "B", "C", "D", "E"]


def make_table(sizes: list[int], seed: int = 0) -> EventTable:
    rng = np.random.default_rng(seed)
    events = sum(sizes)
    return EventTable(
        user_offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        time=np.arange(events).astype("datetime64[s]"),
        place=rng.integers(0, 3, events, dtype=np.int32),
        behavior=np.minimum(rng.integers(0, 5, events), rng.integers(0, 5, events)).astype(np.int32),
        places=["x", "y", "z"],
        candidates=CandidateSet.of(LABELS),
    )


def brute_force(sizes: list[int], length: int) -> list[int]:
    targets, start = [], 0
    for size in sizes:
        targets += [start + i for i in range(size) if i >= length]
        start += size
    return targets


tables = st.lists(st.integers(0, 40), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(sizes=tables, length=st.integers(0, 30))
def test_eligible_equals_brute_force(sizes, length):
    table = make_table(sizes)
    assert eligible(table, length).tolist() == brute_force(sizes, length)


@settings(max_examples=40, deadline=None)
@given(sizes=tables, length=st.integers(1, 25), seed=st.integers(0, 9))
def test_histories_never_cross_users_or_hold_the_target(sizes, length, seed):
    table = make_table(sizes, seed)
    targets = natural_windows(table, length, limit=20, seed=seed)
    users = table.user_of(targets)
    for target, user in zip(targets.tolist(), users.tolist(), strict=True):
        history = table.history(target, length)
        assert len(history) == length
        assert history == [table.event(i) for i in range(target - length, target)]
        assert set(table.user_of(np.arange(target - length, target + 1)).tolist()) == {user}


@settings(max_examples=40, deadline=None)
@given(sizes=tables, per_user=st.integers(0, 8), limit=st.none() | st.integers(0, 30), seed=st.integers(0, 9))
def test_natural_choices(sizes, per_user, limit, seed):
    table = make_table(sizes)
    everything = brute_force(sizes, 5)
    owner = dict(zip(everything, table.user_of(everything).tolist(), strict=True))
    chosen = natural_windows(table, 5, per_user=per_user, limit=limit, seed=seed).tolist()
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(everything)
    counts = Counter(owner[target] for target in chosen)
    full = {user: min(n, per_user) for user, n in Counter(owner.values()).items() if per_user}
    if limit is None or limit >= sum(full.values()):
        assert counts == full
    else:
        assert len(chosen) == limit
        assert all(n <= full[user] for user, n in counts.items())
    assert chosen == natural_windows(table, 5, per_user=per_user, limit=limit, seed=seed).tolist()


@settings(max_examples=40, deadline=None)
@given(sizes=tables, per_behavior=st.integers(0, 12), seed=st.integers(0, 9))
def test_balanced_choices(sizes, per_behavior, seed):
    table = make_table(sizes)
    everything = brute_force(sizes, 5)
    chosen = balanced_windows(table, per_behavior, 5, seed=seed).tolist()
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(everything)
    there = Counter(table.behavior[everything].tolist())
    assert Counter(table.behavior[chosen].tolist()) == {
        code: min(n, per_behavior) for code, n in there.items() if per_behavior
    }
    assert chosen == balanced_windows(table, per_behavior, 5, seed=seed).tolist()


def test_another_seed_chooses_others():
    table = make_table([200, 200])
    assert natural_windows(table, limit=50, seed=0).tolist() != natural_windows(table, limit=50, seed=1).tolist()
    assert balanced_windows(table, 5, seed=0).tolist() != balanced_windows(table, 5, seed=1).tolist()


def test_choices_are_uniform():
    table = make_table([60])
    hits = np.zeros(60)
    for seed in range(2000):
        hits[natural_windows(table, 20, per_user=4, seed=seed)] += 1
    # 4 of 40: each is chosen 200 times, give or take five standard deviations.
    assert (np.abs(hits[20:] - 200) < 5 * np.sqrt(2000 * 0.1 * 0.9)).all()
    assert not hits[:20].any()


@settings(max_examples=60, deadline=None)
@given(
    sizes=tables,
    length=st.integers(1, 6),
    per_user=st.integers(0, 12),
    limit=st.integers(0, 60),
    seed=st.integers(0, 9),
)
def test_stretches_are_consecutive_targets_of_one_user(sizes, length, per_user, limit, seed):
    table = make_table(sizes)
    stretches = natural_stretches(table, 5, length, per_user, limit, seed)
    chosen = [target for stretch in stretches for target in stretch.tolist()]
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(eligible(table, 5).tolist())
    each = Counter(table.user_of(chosen).tolist()) if chosen else Counter()
    available = Counter(table.user_of(eligible(table, 5)).tolist()) if len(eligible(table, 5)) else Counter()
    assert all(count <= per_user for count in each.values())
    assert len(chosen) == min(limit, sum(min(per_user, count) for count in available.values()))
    turns = Counter()
    for stretch in stretches:
        assert 1 <= len(stretch) <= length
        assert np.diff(stretch).tolist() == [1] * (len(stretch) - 1)
        turns[int(table.user_of(stretch[0]))] += 1
    # Nobody gives a second stretch before everybody gave one.
    order = [int(table.user_of(stretch[0])) for stretch in stretches]
    first = order[: len(set(order))]
    assert len(set(first)) == len(first)
    again = natural_stretches(table, 5, length, per_user, limit, seed)
    assert [stretch.tolist() for stretch in again] == [stretch.tolist() for stretch in stretches]


def test_stretches_begin_anywhere():
    table = make_table([60])
    hits = np.zeros(60)
    for seed in range(2000):
        for stretch in natural_stretches(table, 20, 4, 8, 8, seed):
            hits[stretch] += 1
    assert hits[20:].min() > 0.6 * hits[20:].mean()
    assert not hits[:20].any()


def test_negative_sizes_are_refused():
    for call in (
        lambda t: eligible(t, -1),
        lambda t: natural_windows(t, per_user=-1),
        lambda t: natural_windows(t, limit=-1),
        lambda t: balanced_windows(t, -1),
        lambda t: natural_stretches(t, 5, 4, -1, 8),
        lambda t: natural_stretches(t, 5, 4, 8, -1),
    ):
        with pytest.raises(EdgebError, match="is -1"):
            call(make_table([30]))


@settings(max_examples=60, deadline=None)
@given(sizes=tables, gap=st.integers(1, 20), length=st.integers(1, 6), limit=st.integers(0, 40), seed=st.integers(0, 9))
def test_evenings_equal_brute_force(sizes, gap, length, limit, seed):
    """Every day's last targets: long ones first, then any, until there are enough."""
    table = make_table(sizes)
    object.__setattr__(table, "time", (np.arange(len(table)) * gap).astype("datetime64[h]").astype("datetime64[s]"))
    days: dict[tuple[int, object], list[int]] = {}
    for target in brute_force(sizes, 4):
        key = (int(table.user_of(target)), table.event(target).time.date())
        days[key] = [*days.get(key, []), target]
    ends = [day[-length:] for day in days.values()]
    found = [evening.tolist() for evening in evenings(table, 4, length, limit, seed)]
    assert sum(map(len, found)) == min(limit, sum(map(len, ends)))
    # Only the last may be cut, at its end.
    assert all(evening in ends for evening in found[:-1])
    assert all(any(end[: len(evening)] == evening for end in ends) for evening in found)
    assert [len(evening) for evening in found[:-1]] == sorted(map(len, ends), reverse=True)[: max(0, len(found) - 1)]
    assert found == [evening.tolist() for evening in evenings(table, 4, length, limit, seed)]
