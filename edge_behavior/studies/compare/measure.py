"""Numbers of a comparison: metrics of one source and paired differences of two, with intervals over people.

Windows of one user (or group, or block of days) are not independent: units are resampled, whole, the same for all
systems. Several seeds of a system count as the mean of their outcomes at each window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import GROUPS
from edge_behavior.evaluation.metrics import (
    expected_ranks,
    group_recalls,
    mean_recall,
    resampled_recalls,
    unit_weights,
    weighted_precision,
)
from edge_behavior.studies.compare.sources import Source
from edge_behavior.studies.compare.windows import KINDS, Part, Windows, known_events

RECALLS = ("weighted_recall", "overall", *GROUPS)
METRICS = (*RECALLS, "nll", "hit_at_5")
_PROTOCOL_METRICS = (*METRICS, "weighted_precision")
RESAMPLES = 1000
# Bins of earlier events, in multiples of L.
_FACTORS = (1, 2, 4, 8)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """A number and its 95 % interval; None where there is nothing to measure."""

    value: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Gap:
    """First minus second on the same windows.

    Attributes:
        first, second: Names of sources.
        scope: Which windows.
        metric: One of `METRICS`.
        value: The difference; `interval` its paired 95 % interval.
        units: Users, groups or blocks of days behind the interval.
        needed: How many would settle it where the interval holds zero: an interval's width goes with the root of their
            number, so units·(distance to the far end / difference)². None where it is settled, or the difference is 0.
    """

    first: str
    second: str
    scope: str
    metric: str
    value: float
    interval: tuple[float, float]
    units: int
    needed: int | None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of zero, else 0."""
        return 1 if self.interval[0] > 0 else -1 if self.interval[1] < 0 else 0


@dataclass(frozen=True)
class Scope:
    """Windows that are measured together.

    Attributes:
        name: As in results.json: a protocol, `return`, `cold0`, `from20`.
        title: In words, after "on".
        window_set: The set of scores.
        rows: [windows of the set] which of them.
        metrics: What is measured on them.
    """

    name: str
    title: str
    window_set: str
    rows: Mask
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Outcomes:
    """What a source did at each window of a scope, as means over seeds: [n] each, and where the windows belong.

    `precision` is the mean over seeds of the weighted precision, which no window has by itself.
    """

    right: Floats
    loss: Floats
    among_5: Floats
    truth: Ints
    units: Ints
    groups: tuple[str, ...]
    precision: float

    @cached_property
    def values(self) -> dict[str, float | None]:
        """Every metric; None where no window has a group."""
        return {
            "weighted_recall": float(self.right.mean()),
            "overall": mean_recall(self.right, self.truth),
            **group_recalls(self.right, self.truth, self.groups),
            "nll": float(self.loss.mean()),
            "hit_at_5": float(self.among_5.mean()),
            "weighted_precision": self.precision,
        }

    @cached_property
    def draws(self) -> dict[str, Floats]:
        """[RESAMPLES] values of every metric, in the same resamples for all systems."""
        drawn = resampled_recalls(self.right, self.truth, self.units, self.groups, RESAMPLES)
        _, unit = np.unique(self.units, return_inverse=True)
        weights = unit_weights(int(unit.max()) + 1, RESAMPLES)
        counts = weights @ np.bincount(unit)
        for name, values in (("nll", self.loss), ("hit_at_5", self.among_5)):
            drawn[name] = (weights @ np.bincount(unit, weights=values)) / counts
        return drawn


def scopes(windows: Windows, cold: Sequence[int]) -> list[Scope]:
    """All scopes that have windows: protocols, kinds of truth, lengths of history, and cold starts."""
    test, length = windows.test, windows.history_length
    natural = test.member["natural"]
    found = [Scope(p, f"{p} windows", "test", rows, _PROTOCOL_METRICS) for p, rows in test.member.items()]
    words = ("returns", "what the user did before the window", "discoveries")
    # A log evaluated by the balanced protocol only has its kinds on those windows.
    base = natural if natural.any() else test.member["balanced"]
    found += [
        Scope(kind, words[k], "test", base & (test.kinds == k), ("weighted_recall", "nll", "hit_at_5"))
        for k, kind in enumerate(KINDS)
    ]
    edges = [length * factor for factor in _FACTORS]
    for start, stop in zip(edges, [*edges[1:], None], strict=True):
        rows = base & (test.earlier >= start) & (test.earlier < (np.inf if stop is None else stop))
        shown = f"{start}+" if stop is None else f"{start}–{stop - 1}"
        found.append(Scope(f"from{start}", f"users with {shown} earlier events", "test", rows, ("weighted_recall",)))
    every = np.ones(int(natural.sum()), dtype=np.bool_)
    for known in cold:
        title = f"users of whom {known} events are known"
        found.append(Scope(f"cold{known}", title, f"cold{known}", every, METRICS))
    return [scope for scope in found if scope.rows.any()]


def outcomes(source: Source, scope: Scope, windows: Windows) -> Outcomes | None:
    """A source's outcomes; None where it has no scores of the scope's set."""
    if not source.has(scope.window_set):
        return None
    part, rows = _part(windows, scope)
    truth, at = part.truth[rows], np.arange(len(rows))
    right, loss, among, precision = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows)), 0.0
    for held in source.scores:
        scores = held[scope.window_set][scope.rows]
        predicted = scores.argmax(1)
        right += predicted == truth
        precision += weighted_precision(truth, predicted)
        loss -= scores[at, truth]
        among += expected_ranks(scores, truth) <= 5
    count = len(source.scores)
    units = part.unit_codes[rows]
    return Outcomes(right / count, loss / count, among / count, truth, units, windows.groups, precision / count)


def measure(found: Outcomes, metrics: Sequence[str]) -> dict[str, Measured]:
    """Values and intervals; precision is not resampled."""
    draws = found.draws
    return {name: Measured(found.values[name], _interval(draws[name]) if name in draws else None) for name in metrics}


def gap(first: Outcomes, second: Outcomes, names: tuple[str, str], scope: str, metric: str) -> Gap | None:
    """The paired difference of two sources; None where the metric has nothing to measure."""
    ours, theirs = first.values[metric], second.values[metric]
    interval = _interval(first.draws[metric] - second.draws[metric])
    if ours is None or theirs is None or interval is None:
        return None
    value, units = ours - theirs, len(np.unique(first.units))
    return Gap(*names, scope, metric, value, interval, units, needed_units(value, interval, units))


def needed_units(value: float, interval: tuple[float, float], units: int) -> int | None:
    """How many units would put an interval of this shape on one side of zero; see `Gap.needed`."""
    low, high = interval
    if low > 0 or high < 0 or abs(value) < 1e-9:
        return None
    beyond = value - low if value > 0 else high - value
    # An interval may end at zero itself.
    return max(units + 1, math.ceil(units * (beyond / abs(value)) ** 2))


def _part(windows: Windows, scope: Scope) -> tuple[Part, Ints]:
    """The part whose windows the scope has, and which they are."""
    if known_events(scope.window_set) is None:
        return windows.test, np.flatnonzero(scope.rows)
    return windows.test, np.flatnonzero(windows.test.member["natural"])[scope.rows]


def _interval(draws: Floats) -> tuple[float, float] | None:
    known = draws[~np.isnan(draws)]
    if not len(known):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
