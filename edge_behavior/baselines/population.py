"""What people in general do next: the table that ships in bundles."""

from __future__ import annotations

from dataclasses import dataclass

from edge_behavior.baselines.cold_start import known_only
from edge_behavior.baselines.system import Budget, Fitted, Floats, Ints
from edge_behavior.core.population import PopulationTable
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.fit.population import count_population, population_log_probs


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
        return _FittedPopulation(counted(dataset))


def counted(dataset: Dataset) -> PopulationTable:
    """The population of the training part, as bundles ship it."""
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
