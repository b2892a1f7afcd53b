"""Fit on held-out users how a bundle's scores become probabilities, and measure on users not fitted on what it brings.

Everything that is reported for a user comes from weights, temperature, biases and thresholds that were fitted without
that user: a fold of users is measured with what the other folds gave, and the thresholds that these give are taken from
windows scored without their own fold in turn. What goes into the bundle is fitted in the same way on all of them; only
the choice between the three ways to calibrate is made with every user, again by losses of users not fitted on. Where
the dataset has groups, or was split by time, groups or blocks of days stand in the place of users (`HeldOut.units`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.calibration import (
    COVERAGES,
    PRECISIONS,
    Calibration,
    conformal_threshold,
    conformity,
    expected_calibration_error,
    measure,
    suggest_thresholds,
)
from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fusion import SOURCES
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.fit.mixture import Floats, HeldOut, Ints, fit_weights, unit_folds
from edge_behavior.util.resampling import units_text

WAYS = ("raw", "temperature", "bias")
MIN_UNITS, MIN_WINDOWS = 10, 100
# Pull of the biases towards 0, per squared nat, in nats of mean loss.
L2 = 0.01
# Fewer windows with a tail truth say nothing of what the biases do to the tail.
TAIL_WINDOWS = 20
_SHARPEST = 20.0


class TooFewToCalibrateError(EdgebError):
    """There are not enough held-out users (groups, blocks of days) or windows to fit a calibration."""


@dataclass(frozen=True)
class _Fit:
    """A source as it is fitted without some of the folds.

    Attributes:
        raw: [n, B] the source's scores of all windows; of `fused` by weights that were fitted without these folds.
        ways: Per way: as it comes (`raw`), with a temperature, with a temperature and biases.
    """

    raw: Floats
    ways: Mapping[str, Calibration]


def fit_calibration(held: HeldOut, fused: bool = True, seed: int = 0) -> dict[str, Any]:
    """What a manifest's `calibration` holds.

    Args:
        held: Scores of held-out users, see `heldout.score_held_out`.
        fused: Whether the bundle has fusion weights.
        seed: Of the folds.

    Returns:
        Per source what `calibration.Calibration` reads, and under `measured`: `split`, `windows`, `users`, `resampled`
        (the units), `folds` and per source what `calibration.measure` gives on users that nothing was fitted on, with
        the `way` chosen (`raw`, `temperature` or `bias`) and what was known of each of the `ways`.

    Raises:
        TooFewToCalibrateError: fewer than 10 units or 100 windows.
    """
    fold, folds = unit_folds(held.units, seed)
    resampled = held.units.facts()
    if resampled["count"] < MIN_UNITS or len(held) < MIN_WINDOWS:
        raise TooFewToCalibrateError(
            f"{len(held)} validation windows of {resampled['count']} {units_text(resampled)} are too few, "
            f"{MIN_WINDOWS} of {MIN_UNITS} are needed",
            f"import {'a longer log' if held.units.split == 'time' else 'more users'}, or export with --no-calibrate",
        )
    counted = {
        "split": "validation",
        "windows": len(held),
        "users": len(np.unique(held.users)),
        "resampled": resampled,
        "folds": folds,
    }
    found: dict[str, Any] = {}
    measured: dict[str, Any] = {}
    for source in (name for name in SOURCES if fused or name != "fused"):
        fitted = _Source(held, source, fold)
        way, known = fitted.choose()
        found[source] = fitted.calibration(way, frozenset()).to_dict()
        measured[source] = {**fitted.measured(way), "way": way, "ways": known}
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

    def choose(self) -> tuple[str, dict[str, Any]]:
        """See `choose_way`."""
        log_probs = {way: self._left_out(way, frozenset()) for way in WAYS}
        tail = np.array(self._held.groups)[self._held.truth] == "tail"
        return choose_way(log_probs, self._held.truth, self._held.units.codes, tail)

    def calibration(self, way: str, without: frozenset[int]) -> Calibration:
        """What the folds not in `without` give, thresholds included."""
        rows = ~np.isin(self._fold, list(without))
        probs, truth = np.exp(self._left_out(way, without)), self._held.truth[rows]
        scores, right = conformity(probs, truth), probs.argmax(1) == truth
        return replace(
            self._fit(without).ways[way],
            coverage={level: conformal_threshold(scores, level) for level in COVERAGES},
            precision=suggest_thresholds(probs.max(1), right, self._held.units.codes[rows], PRECISIONS),
        )

    def measured(self, way: str) -> dict[str, Any]:
        """`calibration.measure` over all windows, each by what the other folds give."""
        held, n = self._held, len(self._held)
        before, after = np.empty_like(held.model), np.empty_like(held.model)
        coverage: Mapping[float, Floats] = {level: np.empty(n) for level in COVERAGES}
        precision: Mapping[float, Floats] = {level: np.empty(n) for level in PRECISIONS}
        for k in self._folds:
            mine = self._fold == k
            chosen = self.calibration(way, frozenset({k}))
            raw = self._fit(frozenset({k})).raw[mine]
            before[mine] = log_softmax(raw)
            after[mine] = log_softmax(chosen.scores(raw, held.groups))
            for level in COVERAGES:
                coverage[level][mine] = chosen.coverage[level]
            for level in PRECISIONS:
                least = chosen.precision[level]
                precision[level][mine] = np.inf if least is None else least
        return measure(before, after, held.truth, held.groups, coverage, precision)

    def _left_out(self, way: str, without: frozenset[int]) -> Floats:
        """Log-probabilities of the windows not in `without`, each by a fit without its own fold either."""
        found = np.empty_like(self._held.model)
        for k in set(self._folds) - without:
            fit, mine = self._fit(without | {k}), self._fold == k
            found[mine] = log_softmax(fit.ways[way].scores(fit.raw[mine], self._held.groups))
        return found[~np.isin(self._fold, list(without))]

    def _fit(self, without: frozenset[int]) -> _Fit:
        if without not in self._fits:
            held, rows = self._held, ~np.isin(self._fold, list(without))
            if self._source == "fused":
                raw = fit_weights(held.take(rows)).scores(held.model, held.habits)
            else:
                raw = held.model if self._source == "model" else held.habits
            truth, groups = held.truth[rows], held.groups
            ways = {w: fit_scores(raw[rows], truth, groups, biased=w == "bias") for w in WAYS if w != "raw"}
            self._fits[without] = _Fit(raw, {"raw": Calibration(), **ways})
        return self._fits[without]


def choose_way(
    log_probs: Mapping[str, Floats], truth: Ints, units: Ints, tail: NDArray[np.bool_]
) -> tuple[str, dict[str, Any]]:
    """The simplest way that nothing beats, on units it was not fitted on.

    A temperature is taken where it lowers the mean loss by more than the standard error of that difference over units.
    Biases are taken in addition where they do the same to the loss of tail truths, of which there must be 20, and do
    not raise the mean loss. Neither is taken where the expected calibration error is above that of the raw values.

    Args:
        log_probs: [n, B] per way.
        truth: [n].
        units: [n] what varies together, see `resampling`.
        tail: [n] whether the truth is in the tail.

    Returns:
        The way, and per way `nll`, `tail_nll` (None without a tail truth) and `ece`.
    """
    losses = {way: -x[np.arange(len(truth)), truth] for way, x in log_probs.items()}
    known: dict[str, Any] = {
        way: {
            "nll": float(loss.mean()),
            "tail_nll": float(loss[tail].mean()) if tail.any() else None,
            "ece": expected_calibration_error(log_probs[way], truth),
        }
        for way, loss in losses.items()
    }
    chosen = "raw"
    if _lowers(losses["raw"], losses["temperature"], units) and known["temperature"]["ece"] <= known["raw"]["ece"]:
        chosen = "temperature"
    if (
        tail.sum() >= TAIL_WINDOWS
        and _lowers(losses[chosen][tail], losses["bias"][tail], units[tail])
        and known["bias"]["nll"] <= known[chosen]["nll"]
        and known["bias"]["ece"] <= known["raw"]["ece"]
    ):
        chosen = "bias"
    return chosen, known


def _lowers(before: Floats, after: Floats, units: Ints) -> bool:
    """Whether the mean falls by more than the standard error of the difference, windows of a unit taken together."""
    gain = before - after
    _, unit = np.unique(units, return_inverse=True)
    away = np.bincount(unit, gain - gain.mean())
    return bool(gain.mean() > np.sqrt((away**2).sum()) / len(gain))
