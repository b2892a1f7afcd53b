"""The six metrics of the paper, ranks, and intervals over users, groups or blocks of days.

Works on arrays of scores; knows no model. Weighted precision is scikit-learn's `average="weighted"`: Eq. 5 as
printed weighs by TP+FP, which reduces to accuracy (RECIPE).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.scoring import log_softmax
from edge_behavior.util.resampling import Resampling

SIX = ("weighted_precision", "weighted_recall", "overall", "head", "medium", "tail")


@dataclass(frozen=True)
class Outcome:
    """Predictions over a set of windows.

    Attributes:
        scores: [n, B], higher is better; log-probabilities where `is_log_prob`.
        truth: [n] candidate codes.
        users: [n] user codes.
        is_log_prob: Whether `scores` are log-probabilities up to a constant per row.
        resampling: What is drawn for intervals; None for users.
    """

    scores: NDArray[np.float64]
    truth: NDArray[np.int64]
    users: NDArray[np.int64]
    is_log_prob: bool = True
    resampling: Resampling | None = None

    @property
    def units(self) -> Resampling:
        """What is drawn for intervals."""
        return Resampling(self.users) if self.resampling is None else self.resampling

    @property
    def predicted(self) -> NDArray[np.int64]:
        """[n] code with the highest score (the first one in candidate order among equals)."""
        return np.asarray(self.scores.argmax(axis=1), dtype=np.int64)


def expected_ranks(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """[n] rank of the truth, 1 is best; among equal scores the mean of the ranks they share."""
    own = scores[np.arange(len(truth)), truth][:, None]
    return np.asarray(1.0 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2.0)


def behavior_metrics(
    outcome: Outcome, labels: Sequence[str], groups: Sequence[str], resamples: int = 1000
) -> dict[str, Any]:
    """All metrics of one evaluation.

    Args:
        groups: head, medium or tail per label.
        resamples: Bootstrap resamples of the outcome's units for the 95 % intervals; 0 leaves them out.

    Returns:
        The six metrics; `hit_at_3`, `hit_at_5`, `mrr`; `nll` in nats where scores are log-probabilities;
        `interval` per metric and `resampled`, the units it is made of; `per_behavior` rows; `windows`, `users`,
        `behaviors_measured`. A group without a
        test window has the value None.
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
    result: dict[str, Any] = {
        "weighted_precision": float((precision * support).sum() / max(n, 1)),
        "weighted_recall": float(hits.sum() / max(n, 1)),
        **_group_means(recall, groups),
        "hit_at_3": float((ranks <= 3).mean()),
        "hit_at_5": float((ranks <= 5).mean()),
        "mrr": float((1 / ranks).mean()),
        "nll": float(-log_softmax(outcome.scores)[np.arange(n), truth].mean()) if outcome.is_log_prob else None,
        "windows": n,
        "users": len(np.unique(outcome.users)),
        "behaviors_measured": int((support > 0).sum()),
    }
    if resamples:
        result["interval"] = unit_intervals(outcome, groups, resamples)
        result["resampled"] = outcome.units.facts()
    result["per_behavior"] = [
        {
            "behavior": labels[i],
            "group": groups[i],
            "support": int(support[i]),
            "recall": None if support[i] == 0 else float(recall[i]),
            "precision": None if answered[i] == 0 else float(precision[i]),
            "predicted": int(answered[i]),
        }
        for i in range(size)
    ]
    return result


def unit_intervals(
    outcome: Outcome, groups: Sequence[str], resamples: int, seed: int = 0
) -> dict[str, list[float] | None]:
    """95 % percentile bootstrap over units of weighted recall, overall, head, medium and tail.

    Windows of one unit (a user, a group, a block of days) are not independent, so units are resampled, not windows.
    """
    size = len(groups)
    _, unit = np.unique(outcome.units.codes, return_inverse=True)
    n_units = int(unit.max()) + 1 if len(unit) else 0
    flat = unit * size + outcome.truth
    support = np.bincount(flat, minlength=n_units * size).reshape(n_units, size).astype(np.float64)
    right = outcome.predicted == outcome.truth
    hits = np.bincount(flat[right], minlength=n_units * size).reshape(n_units, size).astype(np.float64)
    weights = np.random.default_rng(seed).multinomial(n_units, np.full(n_units, 1 / n_units), size=resamples)
    drawn_support, drawn_hits = weights @ support, weights @ hits
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = drawn_hits / drawn_support
        accuracy = drawn_hits.sum(1) / drawn_support.sum(1)
    intervals: dict[str, list[float] | None] = {"weighted_recall": _percentiles(accuracy)}
    names = np.array(groups)
    for name in ("overall", *GROUPS):
        part = recall if name == "overall" else recall[:, names == name]
        measured = ~np.isnan(part)
        counted = measured.sum(1)
        means = np.where(measured, part, 0.0).sum(1)[counted > 0] / counted[counted > 0]
        intervals[name] = _percentiles(means)
    return intervals


def _group_means(recall: NDArray[np.float64], groups: Sequence[str]) -> dict[str, float | None]:
    names = np.array(groups)
    means: dict[str, float | None] = {}
    for name in ("overall", *GROUPS):
        part = recall if name == "overall" else recall[names == name]
        part = part[~np.isnan(part)]
        means[name] = float(part.mean()) if len(part) else None
    return means


def _percentiles(values: NDArray[np.float64]) -> list[float] | None:
    if not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]
