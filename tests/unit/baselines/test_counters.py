"""Cold start, and counters as distributions that keep their ranking."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.baselines.cold_start import known_only
from edge_behavior.baselines.counters import CounterSystem, at_rank, rank_shares, smoothed_shares
from edge_behavior.baselines.habits import HabitsSystem
from edge_behavior.baselines.system import Budget
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.windows import eligible, natural_windows
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.evaluate import fit_counters
from edge_behavior.evaluation.habits import habit_log_probs
from tests.helpers import LABELS, event_table

LENGTH = 8
BUDGET = Budget(0, 60, 0, Path("unused"))


def windows_of(dataset: Dataset, count: int = 40) -> np.ndarray:
    return natural_windows(dataset.events("test"), LENGTH, limit=count)


@given(st.lists(st.lists(st.sampled_from(LABELS), min_size=1, max_size=6), min_size=1, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_a_cut_table_shows_the_last_events_and_no_others(users: list[list[str]], data: st.DataObject) -> None:
    table = event_table(users)
    targets = np.array(data.draw(st.lists(st.integers(0, len(table) - 1), min_size=1, max_size=6)), dtype=np.int64)
    known = data.draw(st.integers(0, 7))
    cut, found = known_only(table, targets, known)
    for before, after in zip(targets.tolist(), found.tolist(), strict=True):
        assert cut.event(after) == table.event(before)
        assert cut.history(after, 100) == table.history(before, known) if known else cut.history(after, 100) == []


def test_without_a_limit_nothing_is_cut_and_below_zero_is_refused() -> None:
    table, targets = event_table([LABELS]), np.array([3])
    assert known_only(table, targets, None) == (table, targets)
    with pytest.raises(EdgebError, match="known is -1"):
        known_only(table, targets, -1)


@pytest.mark.parametrize("name", COUNTERS)
def test_a_counter_ranks_as_before_and_sums_to_one(dataset: Dataset, name: str) -> None:
    table, targets = dataset.events("test"), windows_of(dataset)
    fitted = CounterSystem(name).fit(dataset, LENGTH, BUDGET, None)
    found = fitted.log_probs(table, targets)
    assert np.allclose(np.exp(found).sum(1), 1)
    scores = fit_counters(dataset, LENGTH).scores(name, table, targets)
    for ours, theirs in zip(found, scores, strict=True):
        order = np.argsort(-theirs, kind="stable")
        assert (np.diff(ours[order]) <= 1e-12).all()
        assert ours.argmax() == theirs.argmax()


@pytest.mark.parametrize("name", COUNTERS)
@pytest.mark.parametrize("known", [0, 1, 3, 500])
def test_cold_start_is_the_counter_of_a_shorter_window(dataset: Dataset, name: str, known: int) -> None:
    table, targets = dataset.events("test"), windows_of(dataset)
    found = CounterSystem(name).fit(dataset, LENGTH, BUDGET, None).log_probs(table, targets, known)
    assert np.allclose(np.exp(found).sum(1), 1)
    shown = min(known, LENGTH)
    if shown == 0:
        # Nothing tells one window from another.
        assert np.allclose(found, found[0])
        assert found[0].argmax() == np.argmax(dataset.candidates.counts)
    else:
        scores = fit_counters(dataset, shown).scores(name, table, targets)
        assert (found.argmax(1) == scores.argmax(1)).all()


def test_the_markov_chain_by_hand(dataset: Dataset) -> None:
    train, table, targets = dataset.events("train"), dataset.events("test"), windows_of(dataset, 5)
    following: Counter[tuple[int, int]] = Counter()
    for a, b in pairwise(train.user_offsets.tolist()):
        following.update(pairwise(train.behavior[a:b].tolist()))
    shares = smoothed_shares(dataset)
    found = CounterSystem("markov_1").fit(dataset, LENGTH, BUDGET, None).log_probs(table, targets)
    for row, target in zip(found, targets.tolist(), strict=True):
        last = int(table.behavior[target - 1])
        counts = np.array([following[last, b] for b in range(len(shares))], dtype=float)
        assert np.allclose(np.exp(row), (counts + shares) / (counts.sum() + 1))


def test_ranks_get_falling_shares_and_ties_share_them() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 3.0, 1.0], [1.0, 2.0, 3.0]])
    shares = rank_shares(scores, np.array([1, 0, 0]))
    assert (np.diff(shares) < 0).all()
    assert shares.sum() == pytest.approx(1)
    # The truths' ranks: second, first or second, third; evened out to (1, 1, 1), plus five windows of 1/rank.
    prior = 5 * np.array([1, 1 / 2, 1 / 3]) / (11 / 6)
    assert np.allclose(shares, (np.array([1, 1, 1]) + prior) / 8)
    found = at_rank(scores, np.array([0.6, 0.3, 0.1]))
    assert np.allclose(found, [[0.6, 0.3, 0.1], [0.45, 0.45, 0.1], [0.1, 0.3, 0.6]])


def test_habits_are_those_of_the_evaluation_and_of_the_known_events_only(dataset: Dataset) -> None:
    table, targets = dataset.events("test"), eligible(dataset.events("test"), LENGTH)[:30:3]
    fitted = HabitsSystem().fit(dataset, LENGTH, BUDGET, None)
    assert (fitted.log_probs(table, targets) == habit_log_probs(table, targets, dataset.candidates.counts)).all()
    assert np.allclose(fitted.log_probs(table, targets, 0), np.log(smoothed_shares(dataset)))
    cut, found = known_only(table, targets, 2)
    assert (fitted.log_probs(table, targets, 2) == habit_log_probs(cut, found, dataset.candidates.counts)).all()
