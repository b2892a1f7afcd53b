"""The learning rate of a system, chosen by a loss that the caller measures on validation users."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from edge_behavior.baselines.system import FailedTrainingError, Fitted

# Candidate rates, where none are given, as multiples of a recipe's.
_FACTORS = (1 / 3, 1.0, 3.0)


def rates_around(rate: float) -> tuple[float, ...]:
    """The candidates around a recipe's rate."""
    return tuple(float(f"{rate * factor:.2g}") for factor in _FACTORS)


def choose_rate(
    rates: Iterable[float], fit: Callable[[float], Fitted], loss: Callable[[Fitted], float]
) -> tuple[float, dict[float, float]]:
    """The rate whose fit has the lowest loss, of equals the smaller.

    Args:
        rates: The candidates, at least one.
        fit: Fits the system at a rate; `FailedTrainingError` says that it does not train there.
        loss: Mean loss of a fit on validation windows, in nats.

    Returns:
        The rate, and the loss per candidate: infinite where training failed or the loss is no number.

    Raises:
        FailedTrainingError: the system trains at no rate.
        EdgebError: as `fit` does for other reasons.
    """
    found = dict[float, float]()
    failure = FailedTrainingError("at no learning rate was the validation loss a number", "try lower rates")
    for rate in sorted(rates):
        try:
            fitted = fit(rate)
        except FailedTrainingError as error:
            failure, found[rate] = error, math.inf
            continue
        try:
            measured = loss(fitted)
        finally:
            fitted.close()
        found[rate] = measured if math.isfinite(measured) else math.inf
    best = min(found, key=lambda rate: (found[rate], rate))
    if not math.isfinite(found[best]):
        raise failure
    return best, found
