"""Calibration: turn a source's scores into probabilities to act on, and take the two decisions an assistant needs.

    p = softmax(score / temperature + bias[g(b)])

over the allowed candidates. The *prediction set* holds every candidate whose probability reaches a threshold, chosen so
that the set contains the truth with the wanted coverage. An assistant *suggests* the first candidate where its
probability reaches a threshold, chosen so that suggestions are right with the wanted precision. Works on arrays; how
temperature, biases and thresholds are fitted is in `fit.calibrate`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fields import DAMAGED_HINT, is_number, naming, read_fields
from edge_behavior.errors import EdgebError

# Levels fitted at export, the only ones that can be requested.
COVERAGES = (0.8, 0.9, 0.95)
PRECISIONS = (0.5, 0.7, 0.8, 0.9)
# A precision is estimated from at least so many windows and units; _Z gives a one-sided 95 % bound.
SUGGEST_WINDOWS, SUGGEST_UNITS = 20, 5
_Z = 1.6448536269514722
_SMALLEST, _LARGEST = 1e-3, 1e3
_SAME_LEVEL = 1e-9
_FIELDS = ("temperature", "bias", "coverage", "precision")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Calibration:
    """How one source's scores become probabilities; the default changes nothing and has no levels.

    Attributes:
        temperature: Divides the scores, above 0; above 1 it makes the source less confident.
        bias: Per group (head, medium, tail), added after that, in nats: the prior correction.
        coverage: Coverage level to the threshold of the prediction set.
        precision: Precision level to the threshold for suggesting; None where no threshold reaches it.
    """

    temperature: float = 1.0
    bias: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0.0))
    coverage: Mapping[float, float] = field(default_factory=dict)
    precision: Mapping[float, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_number(self.temperature, _SMALLEST, _LARGEST):
            raise EdgebError(f"calibration's 'temperature' is {str(self.temperature)[:40]}", DAMAGED_HINT)
        read_fields(dict(self.bias), GROUPS, "calibration's 'bias'")
        for group, value in self.bias.items():
            if not is_number(value, -_LARGEST, _LARGEST):
                raise EdgebError(f"calibration's 'bias.{group}' is {str(value)[:40]}", DAMAGED_HINT)
        for name, levels in (("coverage", self.coverage), ("precision", self.precision)):
            for level, least in levels.items():
                if not (is_number(level, 0.0, 1.0) and 0 < level < 1):
                    raise EdgebError(f"calibration's '{name}' has the level {str(level)[:40]}", DAMAGED_HINT)
                if not (is_number(least, 0.0, 1.0) or (least is None and name == "precision")):
                    raise EdgebError(f"calibration's '{name}.{level:g}' is {str(least)[:40]}", DAMAGED_HINT)

    def offsets(self, groups: Sequence[str]) -> Floats:
        """[B] bias of every candidate, by its group."""
        return np.array([self.bias[group] for group in groups], dtype=np.float64)

    def scores(self, scores: Floats, groups: Sequence[str]) -> Floats:
        """Scores [..., B] to take the softmax of: increasing affine functions of the given ones."""
        return np.asarray(scores / self.temperature + self.offsets(groups))

    def set_threshold(self, coverage: float) -> float:
        """Least probability of a member of the prediction set.

        Raises:
            EdgebError: a coverage that was not fitted.
        """
        return float(self.coverage[_level(self.coverage, coverage, "coverage")])

    def suggest_threshold(self, precision: float) -> float | None:
        """Least probability at which to suggest the first candidate; None for never.

        Raises:
            EdgebError: a precision that was not fitted.
        """
        return self.precision[_level(self.precision, precision, "precision")]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields that `from_dict` reads."""
        return {
            "temperature": self.temperature,
            "bias": {group: self.bias[group] for group in GROUPS},
            "coverage": {f"{level:g}": least for level, least in self.coverage.items()},
            "precision": {f"{level:g}": least for level, least in self.precision.items()},
        }

    @classmethod
    def from_dict(cls, values: object, where: str = "calibration") -> Calibration:
        """Read strictly what `to_dict` gave.

        Args:
            where: The file, for error messages.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, _FIELDS, where)
        bias = read_fields(found["bias"], GROUPS, f"{where}.bias")
        coverage, precision = (_read_levels(found[name], f"{where}.{name}") for name in ("coverage", "precision"))
        with naming(where):
            return cls(found["temperature"], bias, coverage, precision)


@dataclass(frozen=True)
class CalibrationSet:
    """The calibrations of a bundle: the manifest's `calibration`.

    Attributes:
        sources: Per source: model, habits and, where the bundle has fusion weights, fused.
        measured: What calibration did on users it was not fitted on; carried along, not read.
    """

    sources: Mapping[str, Calibration]
    measured: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields that `from_dict` reads."""
        return {**{name: held.to_dict() for name, held in self.sources.items()}, "measured": self.measured}

    @classmethod
    def from_dict(cls, values: object, sources: Sequence[str], where: str = "calibration") -> CalibrationSet:
        """Read strictly what `to_dict` gave.

        Args:
            sources: The sources that the bundle has; each must be there, and no other.

        Raises:
            EdgebError: as `Calibration.from_dict`, or a source is missing or unknown.
        """
        found = read_fields(values, {**dict.fromkeys(sources, object), "measured": dict}, where)
        held = {name: Calibration.from_dict(found[name], f"{where}.{name}") for name in sources}
        return cls(held, found["measured"])


def conformity(probs: Floats, truth: Ints) -> Floats:
    """[n] conformity of the truth: its probability, or 1 where it is the first candidate, which every set holds."""
    own = probs[np.arange(len(truth)), truth]
    return np.where(probs.argmax(1) == truth, 1.0, own)


def conformal_threshold(scores: ArrayLike, coverage: float) -> float:
    """Split-conformal threshold: the prediction set holds the truth of a new window with probability `coverage`.

    The ⌊(n+1)·(1-coverage)⌋-th smallest score, that is the finite-sample quantile ⌈(n+1)·coverage⌉/n of the
    nonconformity 1 - score. The guarantee holds for windows exchangeable with these.

    Args:
        scores: [n] conformity of held-out truths.
        coverage: Between 0 and 1.

    Returns:
        0, which admits every candidate, where there are too few scores for that coverage.
    """
    held = np.sort(np.asarray(scores, dtype=np.float64))
    # .9 is not a binary fraction: 10 · (1 - .9) has to come out as 1.
    rank = math.floor((len(held) + 1) * (1.0 - coverage) + 1e-9)
    return float(held[rank - 1]) if rank >= 1 else 0.0


def prediction_sets(probs: Floats, threshold: ArrayLike) -> Bools:
    """[n, B] members of the prediction sets: candidates that reach the threshold, and always the first.

    Args:
        threshold: One for all windows, or one per window [n].
    """
    members = probs >= np.broadcast_to(np.asarray(threshold, dtype=np.float64), len(probs))[:, None]
    members[np.arange(len(probs)), probs.argmax(1)] = True
    return np.asarray(members)


def suggest_thresholds(
    confidence: Floats, right: Bools, units: Ints, precisions: Sequence[float] = PRECISIONS
) -> dict[float, float | None]:
    """Per precision, the least probability of the first candidate above which suggestions are right that often.

    A threshold counts where the one-sided 95 % lower bound of the precision of all windows above it reaches the level:
    Wilson's bound with the effective number of windows, given their spread between units; from at least 20 windows of
    at least 5 units.

    Args:
        confidence: [n] probability of the first candidate.
        right: [n] whether it was the truth.
        units: [n] unit of resampling (`util.resampling`).
        precisions: The levels.

    Returns:
        The threshold per level; None where none reaches it.
    """
    order = np.argsort(-confidence, kind="stable")
    _, unit = np.unique(units[order], return_inverse=True)
    steps, hits = confidence[order], right[order].astype(np.float64)
    # Windows of equal probability are admitted together.
    ends = np.flatnonzero(np.append(steps[1:] != steps[:-1], True)) + 1 if len(steps) else np.empty(0, dtype=np.int64)
    ends = ends[ends >= SUGGEST_WINDOWS]
    bounds = np.array([_lower_bound(hits[:end], unit[:end]) for end in ends])
    found: dict[float, float | None] = {}
    for wanted in precisions:
        reached = ends[bounds >= wanted] if len(ends) else ends
        found[wanted] = float(steps[reached[-1] - 1]) if len(reached) else None
    return found


def _lower_bound(hits: Floats, unit: Ints) -> float:
    """One-sided 95 % lower bound of the share of hits; -inf from too few units."""
    n, p = len(hits), float(hits.mean())
    away = np.bincount(unit, hits - p)
    if len(np.unique(unit)) < SUGGEST_UNITS:
        return -math.inf
    spread = float((away**2).sum()) / n**2
    # Windows of a unit are correlated: the effective number is that of independent ones with this variance.
    worth = min(float(n), p * (1 - p) / spread) if spread > 0 else float(n)
    z2 = _Z**2 / worth
    return (p + z2 / 2 - _Z * math.sqrt(p * (1 - p) / worth + z2 / (4 * worth))) / (1 + z2)


def _level(levels: Mapping[float, Any], wanted: float, what: str) -> float:
    found = next((level for level in levels if abs(level - wanted) < _SAME_LEVEL), None)
    if found is None:
        known = ", ".join(f"{level:g}" for level in levels) or "none"
        raise EdgebError(f"the bundle is not calibrated for a {what} of {wanted:g}", f"its levels: {known}")
    return found


def _read_levels(values: object, where: str) -> dict[float, Any]:
    if not isinstance(values, dict):
        raise EdgebError(f"{where} is not an object but {type(values).__name__}", DAMAGED_HINT)
    found = {}
    for name, least in values.items():
        try:
            found[float(name)] = least
        except ValueError:
            raise EdgebError(f"{where}: the level '{str(name)[:40]}' is not a number", DAMAGED_HINT) from None
    return found
