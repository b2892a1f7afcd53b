"""Counting the population: against brute force, what stays out of the table, and what a full table drops."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.habits import HabitCounter, HabitsConfig
from edge_behavior.core.population import PopulationConfig, levels_used
from edge_behavior.data.dataset import EventTable
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.fit.population import count_population, population_log_probs
from edge_behavior.fit.strengths import GRID, fit_strengths
from tests.unit.core.test_population import key_of

LABELS = ("Video", "Bar", "Café", "買い物")
PLACES = ["home", "work (main)", "work main"]
CLEAN = ["home", "work main", "work main"]
START = datetime(2024, 5, 1)
Row = tuple[int, int, int]  # hour, place, code
Users = list[list[Row]]


def table_of(users: Users) -> EventTable:
    rows = [row for user in users for row in user]
    counts = Counter(code for _, _, code in rows)
    return EventTable(
        user_offsets=np.cumsum([0, *map(len, users)]).astype(np.int64),
        time=np.array([START + timedelta(hours=hour) for hour, _, _ in rows], dtype="datetime64[s]"),
        place=np.array([place for _, place, _ in rows], dtype=np.int32),
        behavior=np.array([code for _, _, code in rows], dtype=np.int32),
        places=PLACES,
        candidates=CandidateSet(LABELS, tuple(counts[code] for code in range(len(LABELS)))),
    )


def brute_force(users: Users, config: PopulationConfig, places: bool) -> dict[int, dict[int, int]]:
    """Units per code of every context's key, event by event."""
    cells: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for number, user in enumerate(users):
        for i, (hour, place, code) in enumerate(user):
            for name, level in levels_used(places).items():
                if i >= level.behaviors:
                    bucket = hour % 24 // config.hour_bucket if level.hour else None
                    recent = tuple(LABELS[c] for _, _, c in user[i - level.behaviors : i])
                    key = key_of(name, bucket, recent, CLEAN[place] if level.place and places else None)
                    cells[key, code][number] += 1
    kept: dict[int, dict[int, int]] = defaultdict(dict)
    for (key, code), per_user in cells.items():
        if len(per_user) >= config.min_users:
            total = sum(min(count, config.per_user) for count in per_user.values())
            kept[key][code] = int(total / config.min_users + 0.5)
    return dict(kept)


def read(table: Any) -> dict[int, dict[int, int]]:
    """Everything that can be read from a table."""
    return {
        int(key): {int(table.codes[e]): int(table.units[e]) for e in range(table.offsets[c], table.offsets[c + 1])}
        for c, key in enumerate(table.keys)
    }


rows = st.tuples(st.integers(0, 60), st.integers(0, 2), st.integers(0, len(LABELS) - 1))
# Few hours, places and behaviors, so that users meet in one context.
users = st.lists(st.lists(rows, max_size=12), min_size=1, max_size=8)
configs = st.builds(
    PopulationConfig,
    min_users=st.sampled_from([1, 2, 3, 5]),
    per_user=st.sampled_from([1, 2, 4, 100]),
    hour_bucket=st.sampled_from([1, 6, 24]),
)


class TestCounting:
    @settings(max_examples=150, deadline=None)
    @given(users, configs, st.booleans())
    def test_nothing_but_what_brute_force_keeps_can_be_read(self, log, config, places):
        found = count_population(table_of(log), config, places)
        assert read(found.table) == brute_force(log, config, places)
        assert found.users == sum(bool(user) for user in log)
        assert found.dropped == {}

    @settings(max_examples=60, deadline=None)
    @given(users, st.lists(rows, min_size=1, max_size=12), st.booleans())
    def test_what_too_few_did_leaves_no_trace(self, log, event_rows, places):
        """Two logs that differ in cells of fewer than five users only: the tables are equal to the byte."""
        config = PopulationConfig(hour_bucket=6)
        groups = [*log[:4], *[[]] * (4 - len(log[:4]))]
        other = [*groups[:3], event_rows]
        # Four users at most are behind any cell, whatever they do.
        crowd: Users = [[(8, 0, 0)] * 3] * 6
        here, there = table_of([*crowd, *groups]), table_of([*crowd, *other])
        there = replace(there, candidates=here.candidates)
        alone = count_population(replace(table_of(crowd), candidates=here.candidates), config, places).table
        found = [count_population(log_, config, places).table for log_ in (here, there)]
        apart = [set(read(table)) for table in found]
        assert apart[0] == apart[1] == set(read(alone))
        only = [[row for row in user if row[2] != 0] for user in groups]
        quiet = [
            count_population(replace(table_of([*crowd, *them]), candidates=here.candidates), config, places).table
            for them in (only, [[row for row in user if row[2] != 0] for user in other])
        ]
        assert quiet[0].to_bytes() == quiet[1].to_bytes() == alone.to_bytes()

    def test_no_person_makes_up_most_of_a_count(self):
        log: Users = [[(8, 0, 1)] * 500, *[[(8, 0, 1)]] * 4]
        found = read(count_population(table_of(log)).table)
        # 4 of one, 1 of each of the others: 8, rounded to 10.
        assert found[key_of("place", None, (), "home")] == {1: 2}

    def test_large_counts_keep_their_proportions(self):
        log: Users = [[(8, 0, 0)] * 30_000 + [(8, 0, 1)] * 6_000] * 3
        config = PopulationConfig(min_users=1, per_user=65_535)
        found = read(count_population(table_of(log), config).table)[key_of("place", None, (), "home")]
        assert found[0] == 65_535
        assert found[1] == 65_535 // 5

    def test_an_empty_log(self):
        found = count_population(table_of([[]]))
        assert (found.table.contexts, found.users) == (0, 0)


class TestSize:
    LOG: Users = [[(hour, hour % 3, hour * 7 % 4) for hour in range(40)]] * 6

    def test_wide_and_frequent_contexts_stay(self):
        whole = count_population(table_of(self.LOG))
        size = len(whole.table.to_bytes())
        full = read(whole.table)
        before = None
        for limit in range(size, 31, -37):
            found = count_population(table_of(self.LOG), max_bytes=limit)
            assert len(found.table.to_bytes()) <= limit
            kept = read(found.table)
            assert all(full[key] == entries for key, entries in kept.items())
            assert sum(found.dropped.values()) == len(full) - len(kept)
            assert before is None or len(kept) <= before
            before = len(kept)
        assert key_of("place", None, (), "home") in read(count_population(table_of(self.LOG), max_bytes=100).table)
        assert count_population(table_of(self.LOG), max_bytes=size).dropped == {}

    def test_the_narrowest_level_first(self):
        size = len(count_population(table_of(self.LOG)).table.to_bytes())
        assert list(count_population(table_of(self.LOG), max_bytes=size - 1).dropped) == ["last_two_place_hour"]


class TestAtWindows:
    @settings(max_examples=40, deadline=None)
    @given(users, st.booleans(), st.sampled_from([None, 0, 1, 2, 5]))
    def test_as_one_by_one(self, log, places, known):
        events = table_of(log)
        table = count_population(events, PopulationConfig(min_users=2), places).table
        targets = np.random.default_rng(0).permutation(len(events))
        found = population_log_probs(table, events, targets, known)
        for row, target in enumerate(targets):
            user = int(events.user_of(target))
            recent = events.behavior[events.user_offsets[user] : target].tolist()
            recent = recent if known is None else recent[len(recent) - min(known, len(recent)) :]
            event = events.event(int(target))
            np.testing.assert_allclose(found[row], table.log_probs(recent, event.time, event.place), rtol=1e-12)


class TestStrengths:
    """What a user did against what all do."""

    def own(self) -> Users:
        """Everyone has one behavior, and one only."""
        return [[(hour, 0, number % 4) for hour in range(30)] for number in range(12)]

    def common(self) -> Users:
        """All do the same in turn, so that one's own counts are even."""
        return [[(6 * i, 0, i % 3) for i in range(30)] for _ in range(12)]

    @pytest.mark.parametrize("log", ["own", "common"])
    def test_lowers_the_loss_as_the_counter_measures_it(self, log):
        events = table_of(getattr(self, log)())
        population = count_population(events).table
        targets = np.arange(29, 360, 30)
        truth = events.behavior[targets]

        def loss(config: HabitsConfig) -> float:
            found = habit_log_probs(events, targets, events.candidates.counts, config, True, population)
            return float(-found[np.arange(len(targets)), truth].mean())

        config = fit_strengths(events, targets, events.candidates.counts, True, population)
        assert loss(config) <= loss(HabitsConfig()) + 1e-12
        k = [config.k_all, config.k_hour, config.k_place, config.k_place_hour]
        if log == "common":
            assert loss(config) < loss(HabitsConfig()) - 0.1
            assert max(k) == GRID[-1]
        else:
            assert min(k) == GRID[0]

    def test_no_windows_no_change(self):
        events = table_of(self.own())
        assert fit_strengths(events, np.empty(0, dtype=np.int64), events.candidates.counts) == HabitsConfig()


def test_known_none_of_a_user_is_a_new_counter():
    events = table_of(TestSize.LOG)
    table = count_population(events).table
    found = population_log_probs(table, events, np.array([20]), known=0)[0]
    event = events.event(20)
    counter = HabitCounter(events.candidates.counts, population=table)
    np.testing.assert_allclose(found, counter.log_probs(event.time, event.place))
