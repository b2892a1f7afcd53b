"""Systems that count: the simple counters, a user's habits, the population, and habits above the population."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_behavior.baselines.system import Budget, Fitted
from edge_behavior.core.candidates import smoothed_shares
from edge_behavior.core.habits import HabitCounter
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.evaluation.counters import Counters, transition_counts
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.fit.population import count_population, population_log_probs

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Scorer = Callable[[EventTable, Ints, int | None], Floats]

# A candidate that a counter has not seen keeps this share of its training share beside one event.
_UNSEEN = 1e-3


@dataclass(frozen=True)
class Counted:
    """A fitted counter."""

    score: Scorer

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """[n, B], see `Fitted`."""
        return self.score(table, targets, known)

    def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True)
class CountingSystem:
    """A system without parameters to learn.

    Attributes:
        name: As `--systems` takes it.
        title: As tables show it.
        scorer: From a dataset and L to what scores its windows.
        needs: What a log must have.
    """

    name: str
    title: str
    scorer: Callable[[Dataset, int], Scorer]
    needs: frozenset[str] = frozenset()
    rates: tuple[float, ...] = field(default=(), init=False)
    learns: bool = field(default=False, init=False)

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        """Count the training events; counting all of them takes a moment, whatever the budget."""
        return Counted(self.scorer(dataset, history_length))


def simple_counter(name: str) -> Callable[[Dataset, int], Scorer]:
    """One of `evaluation.counters`, its scores in proportion as probabilities."""

    def scorer(dataset: Dataset, history_length: int) -> Scorer:
        train, size = dataset.events("train"), len(dataset.candidates)
        shares = smoothed_shares(dataset.candidates.counts)
        transitions = transition_counts(train, train.user_offsets, size)

        def score(table: EventTable, targets: Ints, known: int | None) -> Floats:
            length = history_length if known is None else min(known, history_length)
            # Nothing is known of a user before the first event but what everybody does.
            counter = name if length else "most_frequent"
            found = Counters(shares, transitions, length).scores(counter, table, targets) + _UNSEEN * shares
            return np.asarray(np.log(found / found.sum(axis=1, keepdims=True)))

        return score

    return scorer


def habits(with_population: bool) -> Callable[[Dataset, int], Scorer]:
    """A user's habits over everything seen of them, backing off to the training shares or to the population."""

    def scorer(dataset: Dataset, history_length: int) -> Scorer:
        counts, places = dataset.candidates.counts, dataset.has_places
        table_of = count_population(dataset.events("train"), places=places).table if with_population else None

        def score(table: EventTable, targets: Ints, known: int | None) -> Floats:
            if known is None:
                return habit_log_probs(table, targets, counts, places=places, population=table_of)
            rows = []
            for target in targets.tolist():
                counter = HabitCounter(counts, None, places, table_of)
                start = max(int(table.user_offsets[table.user_of(target)]), target - known)
                for at in range(start, target):
                    event = table.event(at)
                    counter.observe(int(table.behavior[at]), event.time, event.place)
                asked = table.event(target)
                rows.append(counter.log_probs(asked.time, asked.place))
            return np.stack(rows)

        return score

    return scorer


def population(dataset: Dataset, history_length: int) -> Scorer:
    """What people in general do after the last two behaviors, at this place and hour."""
    held = count_population(dataset.events("train"), places=dataset.has_places).table
    return lambda table, targets, known: population_log_probs(held, table, targets, known)
