"""The simple counters as systems: their rankings as they are, with probabilities put to them.

`most_frequent` and `markov_1` count in distributions: the smoothed training shares q, and (c + q) / (Σc + 1) with c the
training successors of the last behavior. The three counters of the window rank by levels, which give no
probabilities: a candidate gets that of its rank, the share of validation windows whose truth had that rank, made to
fall from rank to rank. Windows with fewer events than L are ranked by those they have, without any by the shares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from edge_behavior.baselines.cold_start import earlier_events, known_only
from edge_behavior.baselines.system import Budget, Fitted, Floats, Ints
from edge_behavior.core.habits import HabitCounter
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import natural_windows
from edge_behavior.evaluation.counters import Counters, transition_counts

TITLES = {
    "most_frequent": "most frequent",
    "last_mode": "mode of the window",
    "markov_1": "Markov chain",
    "hour_mode": "mode at this hour",
    "place_hour_backoff": "mode at this place and hour",
}
_DISTRIBUTIONS = ("most_frequent", "markov_1")
_PER_USER = 20
# Windows that the 1/rank prior of the rank shares weighs: a rank that no truth had keeps a probability above 0.
_PRIOR_WINDOWS = 5.0


def smoothed_shares(dataset: Dataset) -> Floats:
    """[B] training shares, smoothed as habits smooth them; all above 0."""
    # A counter that has seen nothing answers with its prior.
    return np.exp(HabitCounter(dataset.candidates.counts).log_probs(datetime(2000, 1, 1), ""))


@dataclass(frozen=True)
class CounterSystem:
    """One of `evaluation.counters.COUNTERS`."""

    name: str
    rates: tuple[float, ...] = ()
    needs: frozenset[str] = frozenset()
    learns: bool = False

    @property
    def title(self) -> str:
        """As tables show it."""
        return TITLES[self.name]

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        """Count the training part; of the validation part up to `budget.validation_targets` windows give the ranks."""
        train, shares = dataset.events("train"), smoothed_shares(dataset)
        transitions = transition_counts(train, train.user_offsets, len(shares))
        if self.name in _DISTRIBUTIONS:
            return _Distribution(shares, transitions if self.name == "markov_1" else np.zeros_like(transitions))
        table = dataset.events("validation")
        windows = natural_windows(table, history_length, _PER_USER, limit=budget.validation_targets or None)
        return _Ranked(self.name, shares, history_length, table, windows)


@dataclass(frozen=True)
class _Distribution:
    shares: Floats
    transitions: Floats

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """See `Fitted.log_probs`."""
        table, targets = known_only(table, targets, known)
        counts = self.transitions[table.behavior[np.maximum(targets - 1, 0)]]
        counts = np.where(earlier_events(table, targets)[:, None] > 0, counts, 0.0)
        return np.asarray(np.log((counts + self.shares) / (counts.sum(1, keepdims=True) + 1.0)))

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class _Ranked:
    """A counter of the window, and the probability of every rank by the number of events shown."""

    counter: str
    shares: Floats
    length: int
    validation: EventTable
    windows: Ints
    by_rank: dict[int, Floats] = field(default_factory=dict)

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """See `Fitted.log_probs`."""
        table, targets = known_only(table, targets, known)
        shown = np.minimum(earlier_events(table, targets), self.length)
        found = np.empty((len(targets), len(self.shares)))
        for length in np.unique(shown).tolist():
            rows = shown == length
            found[rows] = np.log(at_rank(self._scores(table, targets[rows], length), self._shares_of_ranks(length)))
        return found

    def close(self) -> None:
        """Nothing is held."""

    def _scores(self, table: EventTable, targets: Ints, length: int) -> Floats:
        if length == 0:
            return np.broadcast_to(self.shares, (len(targets), len(self.shares)))
        counters = Counters(self.shares, np.empty((0, 0)), length)
        return counters.scores(self.counter, table, targets)

    def _shares_of_ranks(self, length: int) -> Floats:
        if length not in self.by_rank:
            cut, targets = known_only(self.validation, self.windows, length)
            scores = self._scores(cut, targets, length)
            truth = cut.behavior[targets].astype(np.int64)
            self.by_rank[length] = rank_shares(scores, truth)
        return self.by_rank[length]


def rank_shares(scores: Floats, truth: Ints) -> Floats:
    """[B] probability of each rank, strictly falling: isotonic hits of the truth at it, and a little of 1/rank.

    Args:
        scores: [n, B] of held-out windows.
        truth: [n] candidate codes.
    """
    from sklearn.isotonic import isotonic_regression

    size = scores.shape[1]
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    above, equal = (scores > own).sum(1), (scores == own).sum(1)
    hits = np.zeros(size)
    for first, ties in zip(above.tolist(), equal.tolist(), strict=True):
        hits[first : first + ties] += 1 / ties
    falling = 1 / np.arange(1.0, size + 1)
    held = isotonic_regression(hits, increasing=False) + _PRIOR_WINDOWS * falling / falling.sum()
    return np.asarray(held / held.sum(), dtype=np.float64)


def at_rank(scores: Floats, shares: Floats) -> Floats:
    """[n, B] the share of every candidate's rank; candidates with equal scores share theirs evenly."""
    order = np.argsort(-scores, axis=1, kind="stable")
    found = np.empty(scores.shape)
    for row, (ranking, values) in enumerate(zip(order, np.take_along_axis(scores, order, axis=1), strict=True)):
        starts: NDArray[np.int64] = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
        sizes = np.diff(np.append(starts, len(values)))
        found[row, ranking] = np.repeat(np.add.reduceat(shares, starts) / sizes, sizes)
    return found
