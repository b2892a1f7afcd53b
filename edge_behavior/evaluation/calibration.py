"""What calibration does on windows: calibration error, coverage of prediction sets, precision of suggestions.

Works on arrays of log-probabilities; knows neither models nor how a calibration is fitted (`fit.calibrate`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.calibration import prediction_sets
from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fields import read_fields

BINS = 15

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class BeforeAfter:
    """A measurement before and after calibration; None if there was no window for it."""

    before: float | None
    after: float | None


@dataclass(frozen=True)
class Coverage:
    """Prediction sets that were made for one wanted coverage.

    Attributes:
        overall: Share of windows whose truth is in the set; `head`, `medium` and `tail`: of those whose truth is in the
            group, None without one.
        size: Mean number of candidates in a set.
    """

    overall: float | None
    head: float | None
    medium: float | None
    tail: float | None
    size: float


@dataclass(frozen=True)
class Suggestions:
    """Suggestions that were made for one wanted precision.

    Attributes:
        share: Share of windows with a suggestion.
        suggested: Their number.
        precision: Share of suggestions that are right; None without one.
    """

    share: float
    suggested: int
    precision: float | None


@dataclass(frozen=True)
class CalibrationMetrics:
    """What calibration does to one source on windows.

    Attributes:
        windows: Number of windows.
        ece: Expected calibration error.
        nll: Mean negative log-likelihood in nats; `tail_nll` of the windows whose truth is in the tail.
        accuracy: Share of windows whose first candidate is right.
        coverage: Per wanted coverage, as text.
        precision: Per wanted precision, as text.
    """

    windows: int
    ece: BeforeAfter
    nll: BeforeAfter
    tail_nll: BeforeAfter
    accuracy: BeforeAfter
    coverage: Mapping[str, Coverage]
    precision: Mapping[str, Suggestions]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object, where: str = "calibration") -> CalibrationMetrics:
        """Read strictly what `to_dict` gave.

        Raises:
            EdgebError: a field that is missing or unknown.
        """
        found = read_fields(values, [f.name for f in fields(cls)], where)
        for name in ("ece", "nll", "tail_nll", "accuracy"):
            found[name] = BeforeAfter(**read_fields(found[name], ("before", "after"), f"{where}.{name}"))
        for name, kind in (("coverage", Coverage), ("precision", Suggestions)):
            names = [f.name for f in fields(kind)]
            found[name] = {
                level: kind(**read_fields(held, names, f"{where}.{name}.{level}"))
                for level, held in found[name].items()
            }
        return cls(**found)


def expected_calibration_error(log_probs: Floats, truth: Ints, bins: int = BINS) -> float:
    """Mean distance between the first candidate's probability and its accuracy, over bins of equal size.

    Windows are sorted by the probability of their first candidate and cut into `bins` parts whose sizes differ by at
    most one, so that no bin is decided by a handful of windows, as happens with bins of equal width.

    Args:
        log_probs: [n, B], normalized.
        truth: [n].
        bins: Fewer if there are fewer windows.
    """
    if not len(truth):
        raise ValueError("no windows to measure the calibration error on")
    right = log_probs.argmax(1) == truth
    confidence = np.exp(log_probs.max(1))
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(truth)))
    return float(sum(abs(right[part].sum() - confidence[part].sum()) for part in parts) / len(truth))


def measure_calibration(
    before: Floats,
    after: Floats,
    truth: Ints,
    groups: Sequence[str],
    coverage: Mapping[float, ArrayLike],
    precision: Mapping[float, ArrayLike | None],
) -> CalibrationMetrics:
    """What calibration does on windows.

    Args:
        before: [n, B] log-probabilities before calibration.
        after: [n, B] calibrated ones.
        truth: [n].
        groups: [B] head, medium or tail.
        coverage: Per wanted coverage the least probability of a member of the prediction set, one or [n].
        precision: Per wanted precision the least probability of a suggestion, one or [n]; None or infinite for never.
    """
    rows = np.arange(len(truth))
    group = np.array(groups)[truth]
    probs = np.exp(after)
    confidence, right = probs.max(1), probs.argmax(1) == truth
    losses = [-x[rows, truth] for x in (before, after)]
    sets = {}
    for level, least in coverage.items():
        members = prediction_sets(probs, least)
        inside = members[rows, truth]
        by_group = {name: _mean(inside[group == name]) for name in GROUPS}
        sets[f"{level:g}"] = Coverage(_mean(inside), **by_group, size=float(members.sum(1).mean()))
    suggestions = {}
    for level, threshold in precision.items():
        spoken = confidence >= (np.inf if threshold is None else np.asarray(threshold, dtype=np.float64))
        suggestions[f"{level:g}"] = Suggestions(float(spoken.mean()), int(spoken.sum()), _mean(right[spoken]))
    return CalibrationMetrics(
        windows=len(truth),
        ece=BeforeAfter(*(expected_calibration_error(x, truth) for x in (before, after))),
        nll=BeforeAfter(*(float(loss.mean()) for loss in losses)),
        tail_nll=BeforeAfter(*(_mean(loss[group == "tail"]) for loss in losses)),
        accuracy=BeforeAfter(*(float((x.argmax(1) == truth).mean()) for x in (before, after))),
        coverage=sets,
        precision=suggestions,
    )


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None
