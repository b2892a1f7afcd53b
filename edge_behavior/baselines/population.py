"""What people in general do next, and a user's habits that back off to it: the table that ships in bundles."""

from __future__ import annotations

from dataclasses import dataclass

from edge_behavior.baselines.cold_start import known_only
from edge_behavior.baselines.system import Budget, Fitted, Floats, Ints
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.core.population import PopulationTable
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import natural_windows
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.fit.mixture import PER_USER
from edge_behavior.fit.population import count_population, population_log_probs
from edge_behavior.fit.strengths import fit_strengths


@dataclass(frozen=True)
class PopulationSystem:
    """The population's contexts: last behaviors, place and hour, each smoothed by the next wider."""

    name: str = "population"
    title: str = "population"
    rates: tuple[float, ...] = ()
    needs: frozenset[str] = frozenset()
    learns: bool = False

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        """Count the training part."""
        return _FittedPopulation(_counted(dataset))


@dataclass(frozen=True)
class HabitsPopulationSystem:
    """The habits that ship: they back off to the population's contexts, as far as validation windows favor."""

    name: str = "habits"
    title: str = "habits"
    rates: tuple[float, ...] = ()
    needs: frozenset[str] = frozenset()
    learns: bool = False

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        """Count the training part, and fit how far habits back off as export does; the counts are each user's own."""
        population, counts, places = _counted(dataset), dataset.candidates.counts, dataset.has_places
        validation, limit = dataset.events("validation"), budget.validation_targets or None
        windows = natural_windows(validation, history_length, PER_USER, limit, budget.seed)
        config = fit_strengths(validation, windows, counts, places, population)
        return _FittedHabits(population, counts, places, config)


def _counted(dataset: Dataset) -> PopulationTable:
    return count_population(dataset.events("train"), places=dataset.has_places).table


@dataclass(frozen=True)
class _FittedPopulation:
    population: PopulationTable

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """See `Fitted.log_probs`."""
        table, targets = known_only(table, targets, known)
        return population_log_probs(self.population, table, targets)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class _FittedHabits:
    population: PopulationTable
    counts: tuple[int, ...]
    places: bool
    config: HabitsConfig

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """See `Fitted.log_probs`; without `known` after all of the user's events, not only the window's."""
        table, targets = known_only(table, targets, known)
        return habit_log_probs(table, targets, self.counts, self.config, self.places, self.population)

    def close(self) -> None:
        """Nothing is held."""
