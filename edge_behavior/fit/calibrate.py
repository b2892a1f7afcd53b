"""Fit on held-out users how a bundle's scores become probabilities, and measure it by nested cross-validation.

What is reported for a user comes from weights, temperature, biases and thresholds that were fitted without that user:
a fold of users is measured with what the other folds give, whose thresholds in turn come from windows scored without
their own fold. What goes into the bundle is fitted in the same way on all folds; only the choice between the three ways
to calibrate uses every user, again by losses on users that were not fitted on. If the dataset has groups, or was split
by time, groups or blocks of days take the place of users (`HeldOut.units`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.calibration import (
    COVERAGES,
    PRECISIONS,
    Calibration,
    conformal_threshold,
    conformity,
    suggest_thresholds,
)
from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fusion import SOURCES
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.calibration import CalibrationMetrics, expected_calibration_error, measure_calibration
from edge_behavior.fit.mixture import Floats, HeldOut, Ints, fit_weights, unit_folds
from edge_behavior.util.resampling import Resampled

WAYS = ("raw", "temperature", "bias")
MIN_UNITS, MIN_WINDOWS = 10, 100
# L2 penalty on the biases, in nats of mean loss per squared nat.
L2 = 0.01
# Fewer windows with a tail truth cannot tell what the biases do to the tail.
TAIL_WINDOWS = 20
_SHARPEST = 20.0


class TooFewToCalibrateError(EdgebError):
    """Too few held-out users (groups, blocks of days) or windows to fit a calibration."""


@dataclass(frozen=True)
class WayMetrics:
    """One way to calibrate, on units it was not fitted on.

    Attributes:
        nll: Mean negative log-likelihood in nats.
        tail_nll: That of tail truths; None without one.
        ece: Expected calibration error.
    """

    nll: float
    tail_nll: float | None
    ece: float


@dataclass(frozen=True)
class FittedSource:
    """The calibration of one source.

    Attributes:
        calibration: What the bundle gets.
        measured: What it does, each fold by what the other folds give.
        way: The chosen way: `raw`, `temperature` or `bias`.
        ways: Every way that was tried.
    """

    calibration: Calibration
    measured: CalibrationMetrics
    way: str
    ways: Mapping[str, WayMetrics]


@dataclass(frozen=True)
class FittedCalibration:
    """The calibration of a bundle's sources.

    Attributes:
        sources: Per source.
        windows: Held-out windows.
        users: Users they are of.
        resampled: The units that were left out whole.
        folds: Number of folds.
    """

    sources: Mapping[str, FittedSource]
    windows: int
    users: int
    resampled: Resampled
    folds: int

    def to_dict(self) -> dict[str, Any]:
        """What a manifest's `calibration` holds."""
        return {
            **{source: found.calibration.to_dict() for source, found in self.sources.items()},
            "measured": {
                "split": "validation",
                "windows": self.windows,
                "users": self.users,
                "resampled": self.resampled.to_dict(),
                "folds": self.folds,
                **{
                    source: {
                        **found.measured.to_dict(),
                        "way": found.way,
                        "ways": {way: asdict(held) for way, held in found.ways.items()},
                    }
                    for source, found in self.sources.items()
                },
            },
        }


def fit_calibration(
    held: HeldOut, fused: bool = True, seed: int = 0, offsets: Mapping[str, Floats] | None = None
) -> FittedCalibration:
    """Fit the calibration of every source, and measure it on units that nothing was fitted on.

    Args:
        held: Scores of held-out windows, see `mixture.score_held_out`.
        fused: Whether the bundle has fusion weights.
        seed: For the folds.
        offsets: [B] per source, added to its scores first: those of a balance. They are taken as given, also where a
            fold of windows is measured that took part in choosing them.

    Raises:
        TooFewToCalibrateError: fewer than 10 units or 100 windows.
    """
    fold, folds = unit_folds(held.units, seed)
    resampled = held.units.summary()
    if resampled.count < MIN_UNITS or len(held) < MIN_WINDOWS:
        raise TooFewToCalibrateError(
            f"{len(held)} validation windows of {resampled.count} {resampled.text} are too few, "
            f"{MIN_WINDOWS} of {MIN_UNITS} are needed",
            f"import {'a longer log' if held.units.split == 'time' else 'more users'}, or export with --no-calibrate",
        )
    sources = {}
    for source in (name for name in SOURCES if fused or name != "fused"):
        fits = _SourceFits(held, source, fold, 0.0 if offsets is None else offsets[source])
        way, ways = fits.choose()
        sources[source] = FittedSource(fits.calibration(way, frozenset()), fits.measured(way), way, ways)
    return FittedCalibration(sources, len(held), len(np.unique(held.users)), resampled, folds)


def fit_scores(scores: Floats, truth: Ints, groups: tuple[str, ...], biased: bool) -> Calibration:
    """Temperature, and biases per group if `biased`, with the lowest mean loss; biases are regularized towards 0.

    The problem is convex in 1/temperature and the biases. The mean bias over groups that have candidates is 0, since a
    constant added to all of them changes nothing.
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


@dataclass(frozen=True)
class _Fit:
    """A source as it is fitted without some of the folds.

    Attributes:
        raw: [n, B] the source's scores of all windows, a balance's offsets included; of `fused` by weights that were
            fitted without these folds.
        ways: Calibration per way: uncalibrated (`raw`), with a temperature, with a temperature and biases.
    """

    raw: Floats
    ways: Mapping[str, Calibration]


class _SourceFits:
    """One source's fits without one, two or no folds, each computed once."""

    def __init__(self, held: HeldOut, source: str, fold: Ints, offset: Floats | float) -> None:
        self._held, self._source, self._fold, self._offset = held, source, fold, offset
        self._folds = range(int(fold.max()) + 1)
        self._fits: dict[frozenset[int], _Fit] = {}

    def choose(self) -> tuple[str, dict[str, WayMetrics]]:
        """See `choose_way`."""
        log_probs = {way: self._left_out(way, frozenset()) for way in WAYS}
        tail = np.array(self._held.groups)[self._held.truth] == "tail"
        return choose_way(log_probs, self._held.truth, self._held.units.codes, tail)

    def calibration(self, way: str, without: frozenset[int]) -> Calibration:
        """Fitted on the folds not in `without`, thresholds included."""
        rows = ~np.isin(self._fold, list(without))
        probs, truth = np.exp(self._left_out(way, without)), self._held.truth[rows]
        scores, right = conformity(probs, truth), probs.argmax(1) == truth
        return replace(
            self._fit(without).ways[way],
            coverage={level: conformal_threshold(scores, level) for level in COVERAGES},
            precision=suggest_thresholds(probs.max(1), right, self._held.units.codes[rows], PRECISIONS),
        )

    def measured(self, way: str) -> CalibrationMetrics:
        """Measurements over all windows, each by what the other folds give."""
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
        return measure_calibration(before, after, held.truth, held.groups, coverage, precision)

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
            raw = raw + self._offset
            truth, groups = held.truth[rows], held.groups
            ways = {w: fit_scores(raw[rows], truth, groups, biased=w == "bias") for w in WAYS if w != "raw"}
            self._fits[without] = _Fit(raw, {"raw": Calibration(), **ways})
        return self._fits[without]


def choose_way(
    log_probs: Mapping[str, Floats], truth: Ints, units: Ints, tail: NDArray[np.bool_]
) -> tuple[str, dict[str, WayMetrics]]:
    """The simplest way that no other beats, on units it was not fitted on.

    A temperature is used if it lowers the mean loss by more than the standard error of that difference over units.
    Biases are used in addition if they do the same to the loss of tail truths, of which there must be 20, and do not
    raise the mean loss. Neither is used if its expected calibration error is above the uncalibrated one.

    Args:
        log_probs: [n, B] per way.
        truth: [n].
        units: [n] unit of each window, see `Resampling`.
        tail: [n] whether the truth is in the tail.

    Returns:
        The way, and the metrics of every way.
    """
    losses = {way: -x[np.arange(len(truth)), truth] for way, x in log_probs.items()}
    known = {
        way: WayMetrics(
            nll=float(loss.mean()),
            tail_nll=float(loss[tail].mean()) if tail.any() else None,
            ece=expected_calibration_error(log_probs[way], truth),
        )
        for way, loss in losses.items()
    }
    chosen = "raw"
    if _lowers(losses["raw"], losses["temperature"], units) and known["temperature"].ece <= known["raw"].ece:
        chosen = "temperature"
    if (
        tail.sum() >= TAIL_WINDOWS
        and _lowers(losses[chosen][tail], losses["bias"][tail], units[tail])
        and known["bias"].nll <= known[chosen].nll
        and known["bias"].ece <= known["raw"].ece
    ):
        chosen = "bias"
    return chosen, known


def _lowers(before: Floats, after: Floats, units: Ints) -> bool:
    """Whether the mean falls by more than the standard error of the difference, clustered by unit."""
    gain = before - after
    _, unit = np.unique(units, return_inverse=True)
    away = np.bincount(unit, gain - gain.mean())
    return bool(gain.mean() > np.sqrt((away**2).sum()) / len(gain))
