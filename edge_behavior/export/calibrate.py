"""Fit on held-out users how a bundle's scores become probabilities, and measure on users not fitted on what it brings.

Everything that is reported for a user comes from weights, temperature, choices and thresholds that were fitted without
that user: a fold of users is measured with what the other folds gave, and the thresholds that these give are taken from
windows scored without their own fold in turn. What goes into the bundle is fitted in the same way on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_behavior.calibration import (
    COVERAGES,
    PRECISIONS,
    Calibration,
    conformal_threshold,
    conformity,
    measure,
    suggest_thresholds,
)
from edge_behavior.candidates import GROUPS
from edge_behavior.errors import EdgebError
from edge_behavior.export.heldout import Floats, HeldOut, Ints, fit_weights, user_folds
from edge_behavior.fusion import SOURCES
from edge_behavior.scoring import log_softmax

MIN_USERS, MIN_WINDOWS = 10, 100
# Pull of the biases towards 0, per squared nat, in nats of mean loss.
L2 = 0.01
# The biases are kept where they lower the loss on tail truths by this many nats, told from so many windows.
TAIL_GAIN, TAIL_WINDOWS = 0.01, 20
_SHARPEST = 20.0


class TooFewToCalibrateError(EdgebError):
    """There are not enough held-out users or windows to fit a calibration."""


@dataclass(frozen=True)
class _Fit:
    """A source as it is fitted without some of the folds.

    Attributes:
        raw: [n, B] the source's scores of all windows; of `fused` by weights that were fitted without these folds.
        plain: The temperature alone.
        corrected: Temperature and biases.
    """

    raw: Floats
    plain: Calibration
    corrected: Calibration


def fit_calibration(held: HeldOut, fused: bool = True, seed: int = 0) -> dict[str, Any]:
    """What a manifest's `calibration` holds.

    Args:
        held: Scores of held-out users, see `heldout.score_held_out`.
        fused: Whether the bundle has fusion weights.
        seed: Of the folds.

    Returns:
        Per source what `calibration.Calibration` reads, and under `measured`: `split`, `windows`, `users`, `folds` and
        per source what `calibration.measure` gives on users that nothing was fitted on, with the `prior` (whether the
        biases were kept, and the losses this was decided by).

    Raises:
        TooFewToCalibrateError: fewer than 10 users or 100 windows.
    """
    fold, folds = user_folds(held.users, seed)
    users = len(np.unique(held.users))
    if users < MIN_USERS or len(held) < MIN_WINDOWS:
        raise TooFewToCalibrateError(
            f"{len(held)} validation windows of {users} users are too few, {MIN_WINDOWS} of {MIN_USERS} are needed",
            "import more users, or export with --no-calibrate",
        )
    counted = {"split": "validation", "windows": len(held), "users": users, "folds": folds}
    found: dict[str, Any] = {}
    measured: dict[str, Any] = {}
    for source in SOURCES if fused else SOURCES[:2]:
        fitted = _Source(held, source, fold)
        chosen, prior = fitted.calibration(frozenset())
        found[source] = chosen.to_dict()
        measured[source] = {**fitted.measured(), "prior": prior}
    return {**found, "measured": {**counted, **measured}}


def fit_scores(scores: Floats, truth: Ints, groups: tuple[str, ...], biased: bool) -> Calibration:
    """Temperature, and biases per group if `biased`, with the lowest mean loss; biases are pulled towards 0.

    Convex in 1/temperature and the biases. Biases are given with their mean over the groups that have candidates at
    0, since a constant added to all changes nothing.
    """
    from scipy.optimize import minimize

    member = np.array([[group == name for name in GROUPS] for group in groups], dtype=np.float64)
    rows = np.arange(len(truth))
    own = scores[rows, truth].mean()
    observed = member[truth].mean(0)

    def loss(x: Floats) -> tuple[float, Floats]:
        sharpness, bias = x[0], x[1:]
        log_p = log_softmax(sharpness * scores + (member @ bias if biased else 0.0))
        p = np.exp(log_p)
        slope = (p * scores).sum(1).mean() - own
        value = -log_p[rows, truth].mean()
        if not biased:
            return float(value), np.array([slope])
        slopes = (p @ member).mean(0) - observed + 2 * L2 * bias
        return float(value + L2 * (bias @ bias)), np.array([slope, *slopes])

    start = np.array([1.0, 0.0, 0.0, 0.0] if biased else [1.0])
    bounds = [(1 / _SHARPEST, _SHARPEST), *[(None, None)] * (len(start) - 1)]
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    bias = best[1:] if biased else np.zeros(len(GROUPS))
    present = member.any(0)
    bias = np.where(present, bias - bias[present].mean(), 0.0)
    return Calibration(float(1 / best[0]), {name: float(b) for name, b in zip(GROUPS, bias, strict=True)})


class _Source:
    """One source's fits without one, two or no folds, each made once."""

    def __init__(self, held: HeldOut, source: str, fold: Ints) -> None:
        self._held, self._source, self._fold = held, source, fold
        self._folds = range(int(fold.max()) + 1)
        self._fits: dict[frozenset[int], _Fit] = {}

    def calibration(self, without: frozenset[int]) -> tuple[Calibration, dict[str, Any]]:
        """What the folds not in `without` give, thresholds included, and how the biases were decided on."""
        held, inner = self._held, [k for k in self._folds if k not in without]
        rows = np.isin(self._fold, inner)
        variants = {name: np.empty_like(held.model) for name in ("plain", "corrected")}
        for k in inner:
            fit, mine = self._fit(without | {k}), self._fold == k
            for name, log_probs in variants.items():
                log_probs[mine] = log_softmax(getattr(fit, name).scores(fit.raw[mine], held.groups))
        truth = held.truth[rows]
        losses = {name: -x[rows, :][np.arange(len(truth)), truth] for name, x in variants.items()}
        prior = _decide(losses["plain"], losses["corrected"], np.array(held.groups)[truth] == "tail")
        name = "corrected" if prior["kept"] else "plain"
        probs = np.exp(variants[name][rows])
        scores = conformity(probs, truth)
        fitted: Calibration = getattr(self._fit(without), name)
        coverage = {level: conformal_threshold(scores, level) for level in COVERAGES}
        precision = suggest_thresholds(probs.max(1), probs.argmax(1) == truth, held.users[rows], PRECISIONS)
        return replace(fitted, coverage=coverage, precision=precision), prior

    def measured(self) -> dict[str, Any]:
        """`calibration.measure` over all windows, each by what the other folds give."""
        held, n = self._held, len(self._held)
        before, after = np.empty_like(held.model), np.empty_like(held.model)
        coverage: Mapping[float, Floats] = {level: np.empty(n) for level in COVERAGES}
        precision: Mapping[float, Floats] = {level: np.empty(n) for level in PRECISIONS}
        for k in self._folds:
            mine = self._fold == k
            chosen, _ = self.calibration(frozenset({k}))
            raw = self._fit(frozenset({k})).raw[mine]
            before[mine] = log_softmax(raw)
            after[mine] = log_softmax(chosen.scores(raw, held.groups))
            for level in COVERAGES:
                coverage[level][mine] = chosen.coverage[level]
            for level in PRECISIONS:
                least = chosen.precision[level]
                precision[level][mine] = np.inf if least is None else least
        return measure(before, after, held.truth, held.groups, coverage, precision)

    def _fit(self, without: frozenset[int]) -> _Fit:
        if without not in self._fits:
            held, rows = self._held, ~np.isin(self._fold, list(without))
            if self._source == "fused":
                raw = fit_weights(held.take(rows)).scores(held.model, held.habits)
            else:
                raw = held.model if self._source == "model" else held.habits
            plain, corrected = (
                fit_scores(raw[rows], held.truth[rows], held.groups, biased) for biased in (False, True)
            )
            self._fits[without] = _Fit(raw, plain, corrected)
        return self._fits[without]


def _decide(plain: Floats, corrected: Floats, tail: Any) -> dict[str, Any]:
    """Keep the biases where, on users not fitted on, the mean loss does not rise and that of tail truths falls.

    Args:
        plain: [n] loss with the temperature alone.
        corrected: [n] loss with the biases.
        tail: [n] whether the truth is in the tail.
    """
    found: dict[str, Any] = {"tail_windows": int(tail.sum())}
    for name, losses in (("temperature", plain), ("with_bias", corrected)):
        found[name] = {"nll": float(losses.mean()), "tail_nll": float(losses[tail].mean()) if tail.any() else None}
    found["kept"] = bool(
        tail.sum() >= TAIL_WINDOWS
        and corrected.mean() <= plain.mean()
        and corrected[tail].mean() <= plain[tail].mean() - TAIL_GAIN
    )
    return found
