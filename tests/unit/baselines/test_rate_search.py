"""The rate with the lowest loss wins; one that fails, or whose loss is no number, cannot."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from edge_behavior.baselines.rate_search import choose_rate
from edge_behavior.baselines.system import FailedTrainingError, Fitted


@dataclass
class Fits:
    """Fits fail from `failing` on; counts those that were made and closed."""

    failing: float = math.inf
    made: list[float] = field(default_factory=list)
    closed: int = 0

    def fit(self, rate: float) -> Fitted:
        self.made.append(rate)
        if rate >= self.failing:
            raise FailedTrainingError(f"diverged at {rate}")
        return self  # type: ignore[return-value]

    def close(self) -> None:
        self.closed += 1


def test_the_lowest_loss_wins_of_equals_the_smaller() -> None:
    fits, losses = Fits(), iter((3.0, 1.0, 1.0))
    assert choose_rate((0.5, 0.2, 0.9), fits.fit, lambda _: next(losses)) == (0.5, {0.2: 3.0, 0.5: 1.0, 0.9: 1.0})
    assert (fits.made, fits.closed) == ([0.2, 0.5, 0.9], 3)


def test_a_rate_that_fails_loses_and_all_of_them_fail() -> None:
    assert choose_rate((0.2, 0.5, 0.9), Fits(0.9).fit, lambda _: 2.0) == (0.2, {0.2: 2.0, 0.5: 2.0, 0.9: math.inf})
    with pytest.raises(FailedTrainingError, match=r"diverged at 0\.9"):
        choose_rate((0.2, 0.9), Fits(0.1).fit, lambda _: 2.0)


def test_a_loss_that_is_no_number_loses() -> None:
    losses = iter((math.nan, 2.0))
    assert choose_rate((0.2, 0.5), Fits().fit, lambda _: next(losses)) == (0.5, {0.2: math.inf, 0.5: 2.0})
    with pytest.raises(FailedTrainingError, match="at no learning rate"):
        choose_rate((0.2,), Fits().fit, lambda _: math.nan)


def test_a_fit_that_cannot_be_scored_is_closed() -> None:
    fits = Fits()

    def interrupted(_: Fitted) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose_rate((0.2, 0.5), fits.fit, interrupted)
    assert fits.closed == 1
