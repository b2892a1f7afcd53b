"""Choose on held-out windows how far a user's habits back off: the strengths of `HabitsConfig`.

Where people return to places a few events in one say more than the population; where days follow a common order hardly
any number of them does. One set of strengths does not serve both (benchmarks/results/population.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.habits import LEVELS, HabitCounter, HabitsConfig
from edge_behavior.core.population import PopulationTable
from edge_behavior.data.dataset import EventTable
from edge_behavior.evaluation.habits import replayed
from edge_behavior.evaluation.protocols import Targets

# Events; the largest says that the level is as good as not used.
GRID = (1.0, 2.0, 4.0, 8.0, 16.0, 40.0, 80.0, 160.0, 320.0, 1000.0, 1e6)
_SWEEPS = 2
# A strength leaves its default only for so much lower a mean loss, in nats.
_WORTH = 1e-3

Floats = NDArray[np.float64]


def fit_strengths(
    table: EventTable,
    targets: Targets,
    prior: ArrayLike,
    places: bool = True,
    population: PopulationTable | None = None,
    start: HabitsConfig | None = None,
) -> HabitsConfig:
    """The strengths with the lowest mean loss of the habits, one at a time from a grid, widest level first.

    Args:
        table: Users from their first event on.
        targets: [n] held-out windows.
        prior: [B], as `HabitCounter` takes it.
        places: As `HabitCounter` takes it.
        population: As `HabitCounter` takes it.
        start: The other settings, and the strengths to begin with; None for the defaults.
    """
    config = start or HabitsConfig()
    truth = table.behavior[targets].astype(np.int64)
    # Only the truth's own probability is needed: every level mixes it for itself.
    base = np.empty(len(targets))
    own = {level: np.zeros(len(targets)) for level in LEVELS}
    total = {level: np.zeros(len(targets)) for level in LEVELS}
    for row, counter, when, place in replayed(table, targets, lambda: HabitCounter(prior, config, places, population)):
        base[row] = counter.base(when, place)[truth[row]]
        for level, codes, decayed in counter.seen(when, place):
            own[level][row] = decayed[codes == truth[row]].sum()
            total[level][row] = decayed.sum()

    def loss(settings: HabitsConfig) -> float:
        p = base
        for level in LEVELS:
            k = float(getattr(settings, f"k_{level}"))
            p = (own[level] + k * p) / (total[level] + k)
        return float(-np.log(p).mean())

    for _ in range(_SWEEPS if len(targets) else 0):
        for level in LEVELS:
            best = min((_with(config, level, k) for k in GRID), key=loss)
            if loss(best) < loss(config) - _WORTH:
                config = best
    return config


def _with(config: HabitsConfig, level: str, strength: float) -> HabitsConfig:
    changed: dict[str, Any] = {f"k_{level}": strength}
    return replace(config, **changed)
