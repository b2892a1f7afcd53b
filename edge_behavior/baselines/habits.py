"""The user's habits as a system: the counter that ships in bundles, over everything the user was seen to do."""

from __future__ import annotations

from dataclasses import dataclass

from edge_behavior.baselines.cold_start import known_only
from edge_behavior.baselines.system import Budget, Fitted, Floats, Ints
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.evaluation.habits import habit_log_probs


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
class _FittedHabits:
    counts: tuple[int, ...]
    places: bool

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """See `Fitted.log_probs`; without `known` after all of the user's events, not only the window's."""
        table, targets = known_only(table, targets, known)
        return habit_log_probs(table, targets, self.counts, places=self.places)

    def close(self) -> None:
        """Nothing is held."""
