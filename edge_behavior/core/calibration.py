"""Calibration: from a source's scores to probabilities one can act on, and the two decisions an assistant takes.

    p = softmax(score / temperature + bias[g(b)])

over the candidates that are allowed. A *likely set* holds every candidate of at least a given probability, so that it
contains the truth as often as wanted; an assistant *suggests* where the first candidate has at least a given
probability, so that it is right as often as wanted. Works on arrays; knows neither model nor habits nor how the numbers
are fitted (`fit.calibrate`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.habits import read_fields
from edge_behavior.errors import EdgebError

# What is fitted at export and can be asked for.
COVERAGES = (0.8, 0.9, 0.95)
PRECISIONS = (0.5, 0.7, 0.8, 0.9)
# A threshold is told from at least so many windows and users beyond it; z of a one-sided 95 % bound.
SUGGEST_WINDOWS, SUGGEST_UNITS = 20, 5
_Z = 1.6448536269514722
_SMALLEST, _LARGEST = 1e-3, 1e3
_SAME_LEVEL = 1e-9
_FIELDS = ("temperature", "bias", "coverage", "precision")
_DAMAGED_HINT = "the file is damaged or was edited: copy or make it again"

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Calibration:
    """How one source's scores become probabilities; the default changes nothing and offers no level.

    Attributes:
        temperature: Divides the scores, above 0; more than 1 makes the source less sure of itself.
        bias: Per group: head, medium, tail: added after that, in nats (the prior correction).
        coverage: Wanted coverage to the least probability of a member of the likely set.
        precision: Wanted precision to the least probability at which to suggest; None where it is not reached.
    """

    temperature: float = 1.0
    bias: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0.0))
    coverage: Mapping[float, float] = field(default_factory=dict)
    precision: Mapping[float, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _number(self.temperature, _SMALLEST, _LARGEST):
            raise EdgebError(f"calibration's 'temperature' is {str(self.temperature)[:40]}", _DAMAGED_HINT)
        read_fields(dict(self.bias), GROUPS, "calibration's 'bias'")
        for group, value in self.bias.items():
            if not _number(value, -_LARGEST, _LARGEST):
                raise EdgebError(f"calibration's 'bias.{group}' is {str(value)[:40]}", _DAMAGED_HINT)
        for name, levels in (("coverage", self.coverage), ("precision", self.precision)):
            for level, least in levels.items():
                if not (_number(level, 0.0, 1.0) and 0 < level < 1):
                    raise EdgebError(f"calibration's '{name}' has the level {str(level)[:40]}", _DAMAGED_HINT)
                if not (_number(least, 0.0, 1.0) or (least is None and name == "precision")):
                    raise EdgebError(f"calibration's '{name}.{level:g}' is {str(least)[:40]}", _DAMAGED_HINT)

    def offsets(self, groups: Sequence[str]) -> Floats:
        """[B] bias of every candidate, by its group."""
        return np.array([self.bias[group] for group in groups], dtype=np.float64)

    def scores(self, scores: Floats, groups: Sequence[str]) -> Floats:
        """Scores [..., B] to take the softmax of; affine and rising in the given ones."""
        return np.asarray(scores / self.temperature + self.offsets(groups))

    def least_likely(self, coverage: float) -> float:
        """Least probability of a member of the likely set.

        Raises:
            EdgebError: a coverage that was not fitted.
        """
        return float(self.coverage[_level(self.coverage, coverage, "coverage")])

    def least_suggested(self, precision: float) -> float | None:
        """Least probability of the first candidate at which to suggest it; None for never.

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
        try:
            return cls(found["temperature"], bias, coverage, precision)
        except EdgebError as error:
            raise EdgebError(f"{where}: {error.message}", error.hint) from None


def read_calibrations(values: object, sources: Sequence[str], where: str = "calibration") -> dict[str, Calibration]:
    """The calibration of every source, from what a manifest's `calibration` holds.

    Args:
        sources: The sources that the bundle has; each must be there, and no other.

    Raises:
        EdgebError: as `Calibration.from_dict`, or a source is missing or unknown.
    """
    found = read_fields(values, (*sources, "measured"), where)
    if not isinstance(found["measured"], dict):
        raise EdgebError(f"{where}: 'measured' is not an object", _DAMAGED_HINT)
    return {source: Calibration.from_dict(found[source], f"{where}.{source}") for source in sources}


def conformity(probs: Floats, truth: Ints) -> Floats:
    """[n] how well the truth fits: its probability, or 1 where it is the first candidate, which every set holds."""
    own = probs[np.arange(len(truth)), truth]
    return np.where(probs.argmax(1) == truth, 1.0, own)


def conformal_threshold(scores: ArrayLike, coverage: float) -> float:
    """Least conformity of a set's members such that the set holds the truth of a new window with that probability.

    The ⌊(n+1)·(1-coverage)⌋-th smallest score; as a quantile of the nonconformity 1 - score that is
    ⌈(n+1)·coverage⌉/n, the finite-sample one. The guarantee is for windows that are exchangeable with these.

    Args:
        scores: [n] conformity of held-out truths.
        coverage: Between 0 and 1.

    Returns:
        0, which lets everything in, where there are too few scores to promise that coverage.
    """
    held = np.sort(np.asarray(scores, dtype=np.float64))
    # A coverage like .9 is no binary fraction: 10 · (1 - .9) is meant to be 1.
    rank = math.floor((len(held) + 1) * (1.0 - coverage) + 1e-9)
    return float(held[rank - 1]) if rank >= 1 else 0.0


def likely_sets(probs: Floats, least: ArrayLike) -> Bools:
    """[n, B] members of the likely sets: candidates of at least that probability, equal ones included, and the first.

    Args:
        least: The threshold, or one per window [n].
    """
    members = probs >= np.broadcast_to(np.asarray(least, dtype=np.float64), len(probs))[:, None]
    members[np.arange(len(probs)), probs.argmax(1)] = True
    return np.asarray(members)


def suggest_thresholds(
    confidence: Floats, right: Bools, units: Ints, precisions: Sequence[float] = PRECISIONS
) -> dict[float, float | None]:
    """Least probability of the first candidate from which on it is right at least as often as wanted.

    "At least as often" is told by a one-sided 95 % lower bound of the precision of all windows from there on (Wilson's,
    with as many windows as their spread between units is worth), from at least 20 windows of at least 5 units.

    Args:
        confidence: [n] probability of the first candidate.
        right: [n] whether it was the truth.
        units: [n] what varies together, see `resampling`.
        precisions: The precisions wanted.

    Returns:
        Per precision the threshold; None where no threshold reaches it.
    """
    order = np.argsort(-confidence, kind="stable")
    _, unit = np.unique(units[order], return_inverse=True)
    steps, hits = confidence[order], right[order].astype(np.float64)
    # Windows of equal probability are let in together.
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
    # Windows of a unit are alike: they count for as many as would vary so much if they were independent.
    worth = min(float(n), p * (1 - p) / spread) if spread > 0 else float(n)
    z2 = _Z**2 / worth
    return (p + z2 / 2 - _Z * math.sqrt(p * (1 - p) / worth + z2 / (4 * worth))) / (1 + z2)


def _level(levels: Mapping[float, Any], wanted: float, what: str) -> float:
    found = next((level for level in levels if abs(level - wanted) < _SAME_LEVEL), None)
    if found is None:
        known = ", ".join(f"{level:g}" for level in levels) or "none"
        raise EdgebError(f"the bundle is not calibrated for a {what} of {wanted:g}", f"it knows {known}")
    return found


def _read_levels(values: object, where: str) -> dict[float, Any]:
    if not isinstance(values, dict):
        raise EdgebError(f"{where} is not an object but {type(values).__name__}", _DAMAGED_HINT)
    found = {}
    for name, least in values.items():
        try:
            found[float(name)] = least
        except ValueError:
            raise EdgebError(f"{where}: the level '{str(name)[:40]}' is not a number", _DAMAGED_HINT) from None
    return found


def _number(value: object, low: float, high: float) -> bool:
    """Whether it is a number (JSON's true is Python's int) from `low` to `high`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
