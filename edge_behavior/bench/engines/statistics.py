"""Medians, shares and their 95 % intervals, without a model of what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb, sqrt
from statistics import median
from typing import Any

_Z = 1.959964
_TAIL = 0.025


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def rounded(self, digits: int = 4) -> Estimate:
        """The same to so many digits."""
        return Estimate(*(round(each, digits) for each in (self.value, self.low, self.high)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def median_of(values: Sequence[float]) -> Estimate:
    """The median, between two of the values in order that hold it in 95 % of samples, whatever their distribution.

    With fewer than six values there are none such, and the interval is from the least to the largest.
    """
    ordered, count = sorted(values), len(values)
    left, below = 0, 0.0
    # Values of which at most `_TAIL` of samples have the median among the first or last.
    while left < count // 2:
        below += comb(count, left) / 2**count
        if below > _TAIL:
            break
        left += 1
    outer = max(left - 1, 0)
    return Estimate(median(ordered), ordered[outer], ordered[-1 - outer])


def share_of(right: int, count: int) -> Estimate:
    """A share of some windows, with Wilson's interval."""
    share = right / count
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def sign_test(better: int, worse: int) -> float:
    """Probability of a split at least as uneven if both were as likely (two-sided, exact)."""
    count = better + worse
    if count == 0:
        return 1.0
    tail = sum(comb(count, k) for k in range(min(better, worse) + 1))
    return min(1.0, float(2 * tail / 2**count))
