"""The paper's six metrics, rank metrics, NLL, and bootstrap intervals over users, groups or blocks of days.

Works on arrays of scores; knows no model. Weighted precision is scikit-learn's `average="weighted"`: Eq. 5 as printed
weights by TP+FP, which reduces to accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fields import read_fields
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.util.resampling import Resampled, Resampling

SIX = ("weighted_precision", "weighted_recall", "overall", "head", "medium", "tail")
_DAMAGED_HINT = "the file is damaged or was edited: evaluate again"
# Absent where intervals were left out; runs of earlier versions lack `resampled` only.
_OPTIONAL = ("interval", "resampled")

Interval = tuple[float, float]


@dataclass(frozen=True)
class Outcome:
    """Predictions over a set of windows.

    Attributes:
        scores: [n, B], higher is better; log-probabilities if `is_log_prob`.
        truth: [n] candidate codes.
        users: [n] user codes.
        is_log_prob: Whether `scores` are log-probabilities up to a constant per window.
        resampling: The units that are resampled for intervals; None for users.
    """

    scores: NDArray[np.float64]
    truth: NDArray[np.int64]
    users: NDArray[np.int64]
    is_log_prob: bool = True
    resampling: Resampling | None = None

    @property
    def units(self) -> Resampling:
        """The units that are resampled for intervals."""
        return Resampling(self.users) if self.resampling is None else self.resampling

    @property
    def predicted(self) -> NDArray[np.int64]:
        """[n] code with the highest score; the first in candidate order if several tie."""
        return np.asarray(self.scores.argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class BehaviorMetrics:
    """Metrics of one behavior.

    Attributes:
        behavior: Its label.
        group: head, medium or tail.
        support: Windows whose truth it is.
        recall: None without such a window.
        precision: None if it was never predicted.
        predicted: Windows for which it was predicted.
    """

    behavior: str
    group: str
    support: int
    recall: float | None
    precision: float | None
    predicted: int

    @classmethod
    def from_dict(cls, values: object, where: str) -> BehaviorMetrics:
        """Read strictly what `asdict` gave.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, [f.name for f in fields(cls)], where)
        for name in ("behavior", "group"):
            if not isinstance(found[name], str):
                raise EdgebError(f"{where}: '{name}' is {str(found[name])[:40]}, not text", _DAMAGED_HINT)
        for name in ("support", "predicted"):
            _check_number(found[name], f"{where}: '{name}'", int)
        for name in ("recall", "precision"):
            _check_number(found[name], f"{where}: '{name}'", optional=True)
        return cls(**found)


@dataclass(frozen=True)
class Metrics:
    """Everything measured of one system on one protocol's windows.

    Attributes:
        weighted_precision: Precision per behavior, weighted by its windows.
        weighted_recall: Accuracy.
        overall: Mean recall per behavior over all behaviors that occur; `head`, `medium` and `tail` over those of one
            frequency group, None if no window has one.
        hit_at_3: Share of windows whose truth is among the first 3; `hit_at_5` likewise.
        mrr: Mean reciprocal rank of the truth; of a run, ranks beyond the fifth are estimates unless its recipe's
            `scoring.bound` is null.
        nll: Mean negative log-likelihood in nats; None for scores that are not log-probabilities. Of a run, too high by
            at most `scoring.bound`.
        windows: Number of windows; `users`, and `behaviors_measured`, the behaviors that occur, likewise.
        interval: 95 % intervals of accuracy, `overall` and the groups, by name; None if they were left out.
        resampled: The units behind `interval`; None if not recorded.
        per_behavior: One entry per candidate, in candidate order.
    """

    weighted_precision: float
    weighted_recall: float
    overall: float | None
    head: float | None
    medium: float | None
    tail: float | None
    hit_at_3: float
    hit_at_5: float
    mrr: float
    nll: float | None
    windows: int
    users: int
    behaviors_measured: int
    interval: Mapping[str, Interval | None] | None
    resampled: Resampled | None
    per_behavior: tuple[BehaviorMetrics, ...]

    def value(self, name: str) -> float | None:
        """A metric by its name in `to_dict`."""
        found: float | None = getattr(self, name)
        return found

    def interval_of(self, name: str) -> Interval | None:
        """The 95 % interval of a metric; None if there is none."""
        return None if self.interval is None else self.interval.get(name)

    @property
    def units(self) -> Resampled:
        """The units behind the intervals; whole users where none are recorded."""
        return Resampled("users", "users", self.users) if self.resampled is None else self.resampled

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, as in metrics.json and `edgeb evaluate --json`."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in _OPTIONAL}

    @classmethod
    def from_dict(cls, values: object, where: str = "metrics") -> Metrics:
        """Read strictly what `to_dict` gave; metrics of older runs lack `resampled`.

        Args:
            where: The file, for error messages.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        present = [name for name in _OPTIONAL if isinstance(values, dict) and name in values]
        found = read_fields(values, [*_NUMBERS, *present, "per_behavior"], where)
        for name, kind in _NUMBERS.items():
            _check_number(found[name], f"{where}: '{name}'", kind, name in (*SIX[2:], "nll"))
        rows = found["per_behavior"]
        if not isinstance(rows, list | tuple):
            raise EdgebError(f"{where}: 'per_behavior' is not a list", _DAMAGED_HINT)
        per_behavior = (BehaviorMetrics.from_dict(row, f"{where}.per_behavior[{i}]") for i, row in enumerate(rows))
        interval = _read_intervals(found["interval"], f"{where}.interval") if "interval" in found else None
        resampled = _read_resampled(found["resampled"], f"{where}.resampled") if "resampled" in found else None
        return cls(**{**found, "per_behavior": tuple(per_behavior), "interval": interval, "resampled": resampled})


_NUMBERS: dict[str, type] = {
    **dict.fromkeys((*SIX, "hit_at_3", "hit_at_5", "mrr", "nll"), float),
    **dict.fromkeys(("windows", "users", "behaviors_measured"), int),
}


def expected_ranks(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """[n] rank of the truth, from 1; tied candidates share the mean of their ranks."""
    own = scores[np.arange(len(truth)), truth][:, None]
    return np.asarray(1.0 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2.0)


def weighted_precision(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Precision per behavior, weighted by its windows; that of a behavior that was never predicted is 0.

    Args:
        truth: [n] codes.
        predicted: [n] codes.
    """
    size = 1 + int(max(truth.max(initial=0), predicted.max(initial=0)))
    counted = (truth, predicted, truth[truth == predicted])
    support, answered, hits = (np.bincount(codes, minlength=size) for codes in counted)
    return float((hits / np.maximum(answered, 1) * support).sum() / max(len(truth), 1))


def behavior_metrics(outcome: Outcome, labels: Sequence[str], groups: Sequence[str], resamples: int = 1000) -> Metrics:
    """All metrics of one system on one set of windows.

    Args:
        groups: head, medium or tail per label.
        resamples: Bootstrap resamples for the 95 % intervals; 0 leaves them out.
    """
    truth, predicted = outcome.truth, outcome.predicted
    n, size = len(truth), len(labels)
    support = np.bincount(truth, minlength=size)
    answered = np.bincount(predicted, minlength=size)
    hits = np.bincount(truth[truth == predicted], minlength=size)
    with np.errstate(invalid="ignore"):
        recall = np.where(support > 0, hits / np.maximum(support, 1), np.nan)
        precision = hits / np.maximum(answered, 1)
    ranks = expected_ranks(outcome.scores, truth)
    return Metrics(
        weighted_precision=weighted_precision(truth, predicted),
        weighted_recall=float(hits.sum() / max(n, 1)),
        **_group_means(recall, groups),
        hit_at_3=float((ranks <= 3).mean()),
        hit_at_5=float((ranks <= 5).mean()),
        mrr=float((1 / ranks).mean()),
        nll=float(-log_softmax(outcome.scores)[np.arange(n), truth].mean()) if outcome.is_log_prob else None,
        windows=n,
        users=len(np.unique(outcome.users)),
        behaviors_measured=int((support > 0).sum()),
        per_behavior=tuple(
            BehaviorMetrics(
                labels[i],
                groups[i],
                int(support[i]),
                None if support[i] == 0 else float(recall[i]),
                None if answered[i] == 0 else float(precision[i]),
                int(answered[i]),
            )
            for i in range(size)
        ),
        interval=unit_intervals(outcome, groups, resamples) if resamples else None,
        resampled=outcome.units.summary() if resamples else None,
    )


def mean_recall(right: NDArray[Any], truth: NDArray[np.int64]) -> float:
    """Mean recall per behavior over those that occur.

    Args:
        right: [n] how right each window's prediction is: 0 or 1, or a share over several models.
        truth: [n] candidate codes; at least one.
    """
    support = np.bincount(truth)
    recall = np.bincount(truth, weights=right)[support > 0] / support[support > 0]
    return float(recall.mean())


def group_recalls(right: NDArray[Any], truth: NDArray[np.int64], groups: Sequence[str]) -> dict[str, float | None]:
    """`mean_recall` of the behaviors of each group, by name; None where none of a group occurs.

    Args:
        groups: head, medium or tail per candidate.
    """
    of = np.array(groups)[truth]
    parts = {name: of == name for name in GROUPS}
    return {name: mean_recall(right[part], truth[part]) if part.any() else None for name, part in parts.items()}


def unit_intervals(
    outcome: Outcome, groups: Sequence[str], resamples: int, seed: int = 0
) -> dict[str, Interval | None]:
    """95 % percentile bootstrap intervals of accuracy, overall, head, medium and tail.

    Windows of one unit (a user, a group, a block of days) are not independent, so units are resampled, not windows.
    """
    right = (outcome.predicted == outcome.truth).astype(np.float64)
    drawn = resampled_recalls(right, outcome.truth, outcome.units.codes, groups, resamples, seed)
    return {name: _percentiles(values[~np.isnan(values)]) for name, values in drawn.items()}


def resampled_recalls(
    right: NDArray[np.float64],
    truth: NDArray[np.int64],
    units: NDArray[np.int64],
    groups: Sequence[str],
    resamples: int,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Accuracy, overall, head, medium and tail in bootstrap resamples of whole units, [resamples] each.

    The same units and seed give the same resamples, so that two systems' values may be subtracted one by one.

    Args:
        right: [n] how right each window's prediction is: 0 or 1, or a share over several models.
        truth: [n] candidate codes.
        units: [n] the unit of each window.
        groups: head, medium or tail per candidate.

    Returns:
        NaN in a resample without any window of a group.
    """
    size = len(groups)
    _, unit = np.unique(units, return_inverse=True)
    n_units = int(unit.max()) + 1 if len(unit) else 0
    flat = unit * size + truth
    shape = (n_units, size)
    support = np.bincount(flat, minlength=n_units * size).reshape(shape).astype(np.float64)
    hits = np.bincount(flat, weights=right, minlength=n_units * size).reshape(shape)
    weights = unit_weights(n_units, resamples, seed)
    drawn_support, drawn_hits = weights @ support, weights @ hits
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = drawn_hits / drawn_support
        found = {"weighted_recall": drawn_hits.sum(1) / drawn_support.sum(1)}
        names = np.array(groups)
        for name in ("overall", *GROUPS):
            part = recall if name == "overall" else recall[:, names == name]
            measured = ~np.isnan(part)
            found[name] = np.where(measured, part, 0.0).sum(1) / measured.sum(1)
    return found


@lru_cache(maxsize=32)
def unit_weights(n_units: int, resamples: int, seed: int = 0) -> NDArray[np.int64]:
    """[resamples, n_units] how often each unit is drawn in each bootstrap resample."""
    weights = np.random.default_rng(seed).multinomial(n_units, np.full(n_units, 1 / n_units), size=resamples)
    weights.flags.writeable = False
    return weights


def _group_means(recall: NDArray[np.float64], groups: Sequence[str]) -> dict[str, float | None]:
    names = np.array(groups)
    means: dict[str, float | None] = {}
    for name in ("overall", *GROUPS):
        part = recall if name == "overall" else recall[names == name]
        part = part[~np.isnan(part)]
        means[name] = float(part.mean()) if len(part) else None
    return means


def _percentiles(values: NDArray[np.float64]) -> Interval | None:
    if not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _check_number(value: object, what: str, kind: type = float, optional: bool = False) -> None:
    """Refuse a value that is not a number of that kind (JSON's true is Python's int), or null where `optional`."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        raise EdgebError(f"{what} is {str(value)[:40]}, not a number", _DAMAGED_HINT)


def _read_intervals(values: object, where: str) -> dict[str, Interval | None]:
    found: dict[str, Interval | None] = {}
    for name, pair in read_fields(values, ("weighted_recall", "overall", *GROUPS), where).items():
        if pair is None:
            found[name] = None
            continue
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise EdgebError(f"{where}: '{name}' is not a list of two numbers", _DAMAGED_HINT)
        for end in pair:
            _check_number(end, f"{where}: '{name}'")
        found[name] = (pair[0], pair[1])
    return found


def _read_resampled(values: object, where: str) -> Resampled:
    found = read_fields(values, [f.name for f in fields(Resampled)], where)
    for name in ("count", "days"):
        _check_number(found[name], f"{where}: '{name}'", int, name == "days")
    return Resampled(**found)
