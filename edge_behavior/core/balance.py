"""The balance dial: from the behavior that is right most often (τ = 0) towards rare ones, without retraining.

    score_b - τ · log share_b

where share is the candidate's smoothed share of training events: logit adjustment (Menon et al. 2021). Softmax over the
allowed candidates comes after it, as does calibration: (score - τ·log share)/temperature + bias. A constant per
candidate leaves scores affine and increasing in the model's log-probability, so that they are searched as exactly as
without it. Works on arrays; how τ is fitted is in `fit.balance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.calibration import CalibrationSet
from edge_behavior.core.candidates import smoothed_shares
from edge_behavior.core.fields import DAMAGED_HINT, NULL, is_number, read_fields
from edge_behavior.errors import EdgebError

# At 1 a behavior's own frequency is divided out; beyond, rare ones are preferred to what the scores say.
MOST = 2.0
FITTED = "fitted"
_SAME_BALANCE = 1e-9
_HINT = f"pass a number from 0 (right most often) to {MOST:g}, or '{FITTED}'"

# τ, or the one that the bundle has for the source that answers.
Balance = float | Literal["fitted"]
Floats = NDArray[np.float64]


def check_balance(value: object, what: str = "balance") -> Balance:
    """A τ from 0 to 2, or "fitted".

    Raises:
        EdgebError: anything else, naming `what`.
    """
    if isinstance(value, str) and value == FITTED:
        return "fitted"
    # NumPy's numbers count; comparisons with NaN are false.
    if isinstance(value, np.number):
        value = value.item()
    if not is_number(value, 0.0, MOST):
        raise EdgebError(f"{what} is {str(value)[:40]}", _HINT)
    return float(value)  # type: ignore[arg-type]


def parse_balance(text: str, what: str = "--balance") -> Balance:
    """`check_balance` of a command line's text."""
    if text == FITTED:
        return "fitted"
    try:
        value = float(text)
    except ValueError:
        raise EdgebError(f"{what} is '{text[:40]}'", _HINT) from None
    return check_balance(value, what)


def balance_offsets(balance: float, counts: ArrayLike) -> Floats:
    """[B] -τ·log share of every candidate, finite: shares are smoothed as those that habits fall back on.

    Args:
        balance: τ.
        counts: [B] training events (`CandidateSet.counts`).

    Raises:
        EdgebError: τ is above 0, and no candidate has a training event: there is nothing to balance by.
    """
    known = np.asarray(counts, dtype=np.float64)
    if balance == 0:
        return np.zeros(len(known))
    if not known.any():
        raise EdgebError(f"balance is {balance:g}, but the training counts are unknown", "use balance 0")
    return np.asarray(-balance * np.log(smoothed_shares(known)))


@dataclass(frozen=True)
class FittedBalance:
    """The τ that export chose to find rare behaviors: a manifest's `balance`.

    Attributes:
        fitted: τ per source: model, habits and, where the bundle has fusion weights, fused.
        calibration: Of scores that are balanced by it; None where there is none.
        measured: What balancing did on held-out windows; carried along, not read.
    """

    fitted: Mapping[str, float]
    calibration: CalibrationSet | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)

    def is_fitted(self, source: str, balance: float) -> bool:
        """Whether `balance` is the τ fitted for a source."""
        return abs(self.fitted[source] - balance) < _SAME_BALANCE

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields that `from_dict` reads."""
        return {
            "fitted": dict(self.fitted),
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "measured": self.measured,
        }

    @classmethod
    def from_dict(cls, values: object, sources: Sequence[str], where: str = "balance") -> FittedBalance:
        """Read strictly what `to_dict` gave.

        Args:
            sources: The sources that the bundle has; each must be there, and no other.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, {"fitted": dict, "calibration": (dict, NULL), "measured": dict}, where)
        fitted = read_fields(found["fitted"], sources, f"{where}.fitted")
        for name, value in fitted.items():
            if not is_number(value, 0.0, MOST):
                raise EdgebError(f"{where}.fitted: '{name}' is {str(value)[:40]}", DAMAGED_HINT)
        held = found["calibration"]
        read = None if held is None else CalibrationSet.from_dict(held, sources, f"{where}.calibration")
        return cls({name: float(value) for name, value in fitted.items()}, read, found["measured"])
