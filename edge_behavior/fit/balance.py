"""Fit on held-out windows the τ of the balance dial that finds most behaviors, and measure what it costs.

What counts is the mean recall per behavior. Held-out windows are natural draws; counting each by 1/(windows of its
truth) makes them balanced ones in expectation, without scoring more. Rare behaviors' recalls then rest on few windows,
and the curve is flat near its top, while accuracy falls all along: so τ is the smallest that the best does not beat by
more than the standard error of their difference. The gain that is reported is of windows whose τ was chosen on the
other folds; where it is none, τ stays 0. `fused` is scored by weights that were fitted without a window's own fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.balance import balance_offsets
from edge_behavior.core.fusion import SOURCES
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.metrics import group_recalls, mean_recall
from edge_behavior.fit.mixture import Floats, HeldOut, Ints, left_out_scores, unit_folds
from edge_behavior.util.resampling import Resampled

GRID = tuple(round(0.05 * i, 2) for i in range(31))
# A share to four digits is finer than any number of held-out windows tells.
_DIGITS = 4


class NoCountsError(EdgebError):
    """The training counts are unknown, so that there is nothing to balance by."""


@dataclass(frozen=True)
class Recalls:
    """How often the first candidate is right.

    Attributes:
        accuracy: Share of all windows.
        overall: Mean recall per behavior over those that occur; `head`, `medium` and `tail` over those of a group, None
            without one.
    """

    accuracy: float
    overall: float
    head: float | None
    medium: float | None
    tail: float | None

    def to_dict(self) -> dict[str, float | None]:
        """JSON-ready fields, rounded."""
        return {name: None if value is None else round(value, _DIGITS) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class BalancedSource:
    """The balance of one source.

    Attributes:
        fitted: The smallest τ whose mean recall is the highest but for a standard error; 0 if choosing it so gains
            nothing on other windows.
        curve: Recalls by τ.
        cross_validated: Recalls where each fold has the τ that is chosen on the other folds.
    """

    fitted: float
    curve: Mapping[float, Recalls]
    cross_validated: Recalls

    def to_dict(self) -> dict[str, Any]:
        """What a manifest holds: the curve as a list per column."""
        rows = [recalls.to_dict() for recalls in self.curve.values()]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return {"curve": {"balance": list(self.curve), **columns}, "cross_validated": self.cross_validated.to_dict()}


@dataclass(frozen=True)
class MeasuredBalance:
    """The balance of a bundle's sources.

    Attributes:
        sources: Per source.
        windows: Held-out windows.
        users: Users they are of.
        resampled: The units that were left out whole.
        folds: Number of folds.
    """

    sources: Mapping[str, BalancedSource]
    windows: int
    users: int
    resampled: Resampled
    folds: int

    @property
    def fitted(self) -> dict[str, float]:
        """τ per source."""
        return {name: found.fitted for name, found in self.sources.items()}

    def to_dict(self) -> dict[str, Any]:
        """What a manifest's `balance.measured` holds."""
        return {
            "split": "validation",
            "windows": self.windows,
            "users": self.users,
            "resampled": self.resampled.to_dict(),
            "folds": self.folds,
            **{name: found.to_dict() for name, found in self.sources.items()},
        }


def fit_balance(held: HeldOut, counts: ArrayLike, fused: bool = True, seed: int = 0) -> MeasuredBalance:
    """Fit τ of every source, and measure accuracy and recalls by τ.

    Args:
        held: Scores of held-out windows, see `mixture.score_held_out`.
        counts: [B] training events per candidate.
        fused: Whether the bundle has fusion weights.
        seed: For the folds.

    Raises:
        NoCountsError: no candidate has a training event.
    """
    if not np.asarray(counts).any():
        raise NoCountsError("the training counts are unknown", "train on a dataset made by edgeb data")
    fold, folds = unit_folds(held.units, seed)
    scores = left_out_scores(held, seed)
    sources = {
        name: _fit_source(scores[name], held, np.asarray(counts), fold) for name in SOURCES if fused or name != "fused"
    }
    return MeasuredBalance(sources, len(held), len(np.unique(held.users)), held.units.summary(), folds)


def _fit_source(scores: Floats, held: HeldOut, counts: Ints, fold: Ints) -> BalancedSource:
    right = np.array([(scores + balance_offsets(t, counts)).argmax(1) == held.truth for t in GRID])
    everything = np.ones(len(held), dtype=np.bool_)
    curve = {t: _recalls(row, held) for t, row in zip(GRID, right, strict=True)}
    chosen = np.empty(len(held), dtype=np.bool_)
    for k in np.unique(fold):
        mine = fold == k
        chosen[mine] = right[_choose(right, held, ~mine)][mine]
    crossed = _recalls(chosen, held)
    gains = crossed.overall > curve[0.0].overall
    return BalancedSource(GRID[_choose(right, held, everything)] if gains else 0.0, curve, crossed)


def _choose(right: NDArray[np.bool_], held: HeldOut, rows: NDArray[np.bool_]) -> int:
    """Index of the first τ that the best on some windows does not beat by more than a standard error over units."""
    truth, hits = held.truth[rows], right[:, rows]
    support = np.bincount(truth)
    weights = 1.0 / (support[truth] * np.count_nonzero(support))
    best = hits[int((hits @ weights).argmax())].astype(np.float64)
    _, unit = np.unique(held.units.codes[rows], return_inverse=True)
    for index, row in enumerate(hits):
        gains = np.bincount(unit, weights * (best - row))
        error = np.sqrt(((gains - gains.mean()) ** 2).sum())
        # A sum of nothing but rounding is no gain.
        if gains.sum() <= error + 1e-12:
            return index
    raise AssertionError("the best does not beat itself")


def _recalls(right: NDArray[np.bool_], held: HeldOut) -> Recalls:
    """Recalls where [n] `right` says at which windows the first candidate is the truth."""
    return Recalls(float(right.mean()), mean_recall(right, held.truth), **group_recalls(right, held.truth, held.groups))
