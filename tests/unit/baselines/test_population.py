"""The population's systems are those that ship, and cold start is theirs, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_behavior.baselines.habits import HabitsPopulationSystem
from edge_behavior.baselines.population import PopulationSystem
from edge_behavior.baselines.system import Budget
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.windows import natural_windows
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.fit.population import count_population, population_log_probs
from edge_behavior.fit.strengths import fit_strengths

BUDGET = Budget(0, 0, 0, Path("unused"))


@pytest.mark.parametrize("known", [0, 1, 2, 5, None])
def test_the_population_is_the_one_that_ships(dataset: Dataset, known: int | None) -> None:
    table = dataset.events("test")
    targets = natural_windows(table, 8, limit=30)
    found = PopulationSystem().fit(dataset, 8, BUDGET, None).log_probs(table, targets, known)
    counted = count_population(dataset.events("train"), places=dataset.has_places).table
    assert np.allclose(found, population_log_probs(counted, table, targets, known))
    assert np.allclose(np.exp(found).sum(1), 1)


def test_habits_of_nobody_are_the_populations(dataset: Dataset) -> None:
    table = dataset.events("test")
    targets = natural_windows(table, 8, limit=30)
    fitted = HabitsPopulationSystem().fit(dataset, 8, BUDGET, None)
    population = PopulationSystem().fit(dataset, 8, BUDGET, None)
    assert np.allclose(fitted.log_probs(table, targets, 0), population.log_probs(table, targets, 0))
    counted = count_population(dataset.events("train"), places=dataset.has_places).table
    counts, places, validation = dataset.candidates.counts, dataset.has_places, dataset.events("validation")
    config = fit_strengths(validation, natural_windows(validation, 8, 20), counts, places, counted)
    shipped = habit_log_probs(table, targets, counts, config, places, counted)
    assert (fitted.log_probs(table, targets) == shipped).all()
