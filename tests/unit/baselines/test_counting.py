"""Counters as systems: probabilities, cold starts, and the scores they have elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_behavior.baselines.recipes import TUNED_SYSTEMS
from edge_behavior.baselines.registry import systems
from edge_behavior.baselines.system import Budget
from edge_behavior.data.dataset import EventTable
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.studies.runs.planned import changed
from edge_behavior.train.recipe import load_recipe
from tests import helpers

LABELS, LENGTH = ["a", "b", "c", "never"], 3
USERS = [list("abcabcab"), list("bbcabbca"), list("cabcabca")] * 3
COUNTING = [name for name, system in systems().items() if not system.learns]


class Log:
    """What counters read of a dataset."""

    def __init__(self, table: EventTable) -> None:
        self._table, self.candidates, self.has_places = table, table.candidates, True

    def events(self, split: str) -> EventTable:
        return self._table


@pytest.fixture
def table() -> EventTable:
    return helpers.event_table(USERS, LABELS)


def fitted(name: str, table: EventTable) -> Any:
    log: Any = Log(table)
    return systems()[name].fit(log, LENGTH, Budget(0, 10, 0, Path()), None)


def targets_of(table: EventTable) -> Any:
    return np.concatenate([np.arange(start + LENGTH, start + 8) for start in table.user_offsets[:-1]])


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("known", [None, 0, 1, 2, 50])
def test_every_row_is_a_distribution(name: str, known: int | None, table: EventTable):
    found = fitted(name, table).log_probs(table, targets_of(table), known)
    assert found.shape == (45, 4)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(found).sum(1), 1.0)


@pytest.mark.parametrize("name", COUNTING)
def test_knowing_everything_is_knowing_all_that_there_is(name: str, table: EventTable):
    system, targets = fitted(name, table), targets_of(table)
    np.testing.assert_allclose(system.log_probs(table, targets, 1000), system.log_probs(table, targets))


@pytest.mark.parametrize("name", COUNTING)
def test_what_is_not_known_changes_nothing(name: str, table: EventTable):
    """With one known event, all others of the user before the target may be anything."""
    other = helpers.event_table([["c"] * 4 + user[4:] for user in USERS], LABELS, list(table.candidates.counts))
    targets = table.user_offsets[:-1] + 6
    system = fitted(name, table)
    np.testing.assert_array_equal(system.log_probs(table, targets, 1), system.log_probs(other, targets, 1))
    np.testing.assert_array_equal(system.log_probs(table, targets, 0), system.log_probs(other, targets, 0))


def test_habits_are_those_of_the_product(table: EventTable):
    targets = targets_of(table)
    expected = habit_log_probs(table, targets, table.candidates.counts)
    np.testing.assert_array_equal(fitted("habits", table).log_probs(table, targets), expected)


def test_tuned_systems_change_recipes():
    base = load_recipe("tiny")
    for name, system in TUNED_SYSTEMS.items():
        recipe = changed(base, system.changes, 3, name, name)
        assert recipe.seed == 3
    assert changed(base, TUNED_SYSTEMS["untuned"].changes, 0, "u", "u").a_tuning.method == "none"
