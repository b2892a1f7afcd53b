"""The rate with the lowest validation loss wins, by hand on systems that learn nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.baselines.habits import HabitsSystem
from edge_behavior.baselines.rate_search import choose_rate
from edge_behavior.baselines.system import Budget, FailedTrainingError, Fitted, Floats, Ints
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import natural_windows
from edge_behavior.errors import EdgebError

BUDGET = Budget(50, 30, 0, Path("work"))


@dataclass
class Fake:
    """The truth gets `rate` as its probability."""

    rates: tuple[float, ...]
    failing: float = math.inf
    name: str = "fake"
    title: str = "fake"
    needs: frozenset[str] = frozenset()
    learns: bool = True
    folders: list[str] = field(default_factory=list)
    closed: int = 0

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        assert rate is not None
        self.folders.append(budget.folder.as_posix())
        if rate >= self.failing:
            raise FailedTrainingError(f"diverged at {rate}")
        self.rate = rate
        return self

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        rest = (1 - self.rate) / (len(table.candidates) - 1)
        rows = np.full((len(targets), len(table.candidates)), math.log(rest))
        rows[np.arange(len(targets)), table.behavior[targets]] = math.log(self.rate)
        return rows

    def close(self) -> None:
        self.closed += 1


def test_the_lowest_loss_wins(dataset: Dataset) -> None:
    system = Fake((0.5, 0.2, 0.9))
    rate, measured = choose_rate(system, dataset, 8, BUDGET)
    assert rate == 0.9
    assert measured == pytest.approx({0.2: -math.log(0.2), 0.5: -math.log(0.5), 0.9: -math.log(0.9)})
    assert system.folders == ["work/rate-0.2", "work/rate-0.5", "work/rate-0.9"]
    assert system.closed == 3


def test_a_rate_that_diverges_loses_and_all_of_them_fail(dataset: Dataset) -> None:
    assert choose_rate(Fake((0.2, 0.5, 0.9), failing=0.9), dataset, 8, BUDGET)[0] == 0.5
    with pytest.raises(FailedTrainingError, match=r"diverged at 0\.9"):
        choose_rate(Fake((0.2, 0.9), failing=0.1), dataset, 8, BUDGET)


def test_where_nothing_is_searched_nothing_is_fitted(dataset: Dataset) -> None:
    assert choose_rate(HabitsSystem(), dataset, 8, BUDGET) == (None, {})


def test_without_validation_windows_it_says_so(dataset: Dataset) -> None:
    assert not len(natural_windows(dataset.events("validation"), 100_000))
    with pytest.raises(EdgebError, match=r"no validation user .* has more than 100000 events"):
        choose_rate(Fake((0.5,)), dataset, 100_000, BUDGET)
