"""The user's habits as systems, over everything the user was seen to do: alone, and as bundles ship them."""

from __future__ import annotations

from dataclasses import dataclass

from edge_behavior.baselines.cold_start import known_only
from edge_behavior.baselines.population import counted
from edge_behavior.baselines.system import Budget, Fitted, Floats, Ints
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.core.population import PopulationTable
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import natural_windows
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.fit.mixture import PER_USER
from edge_behavior.fit.strengths import fit_strengths


@dataclass(frozen=True)
class HabitsSystem:
    """`core.habits` with its default settings, backing off to the training shares: what habits know alone."""

    name: str = "habits_alone"
    title: str = "habits without the population"
    rates: tuple[float, ...] = ()
    needs: frozenset[str] = frozenset()
    learns: bool = False

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        """Take the training shares; the counts are each user's own."""
        return _FittedHabits(dataset.candidates.counts, dataset.has_places)


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
        population, counts, places = counted(dataset), dataset.candidates.counts, dataset.has_places
        validation, limit = dataset.events("validation"), budget.validation_targets or None
        windows = natural_windows(validation, history_length, PER_USER, limit, budget.seed)
        config = fit_strengths(validation, windows, counts, places, population)
        return _FittedHabits(counts, places, config, population)


@dataclass(frozen=True)
class _FittedHabits:
    counts: tuple[int, ...]
    places: bool
    config: HabitsConfig | None = None
    population: PopulationTable | None = None

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """See `Fitted.log_probs`; without `known` after all of the user's events, not only the window's."""
        table, targets = known_only(table, targets, known)
        return habit_log_probs(table, targets, self.counts, self.config, self.places, self.population)

    def close(self) -> None:
        """Nothing is held."""
