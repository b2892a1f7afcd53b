"""A user's habits as a system to measure, and accuracy by how much of the user was seen before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.habits import HabitCounter, HabitsConfig
from edge_behavior.core.population import PopulationTable
from edge_behavior.data.dataset import EventTable
from edge_behavior.evaluation.protocols import Targets

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HistoryBin:
    """Accuracy on the windows of users with so many earlier events.

    Attributes:
        start: Fewest earlier events.
        stop: First number of events beyond the bin; None for no end.
        windows: Windows in the bin.
        users: Users they are of.
        accuracy: Per system.
    """

    start: int
    stop: int | None
    windows: int
    users: int
    accuracy: Mapping[str, float]

    @property
    def events(self) -> str:
        """The bin in words: 20–39, or 160+."""
        return f"{self.start}+" if self.stop is None else f"{self.start}–{self.stop - 1}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        counted = {"windows": self.windows, "users": self.users}
        return {"from": self.start, "to": self.stop, **counted, "accuracy": dict(self.accuracy)}


def habit_log_probs(
    table: EventTable,
    targets: Targets,
    prior: ArrayLike,
    config: HabitsConfig | None = None,
    places: bool = True,
    population: PopulationTable | None = None,
) -> Floats:
    """[n, B] log-probabilities of each user's habits at windows, after all of the user's events before the target.

    Args:
        table: Users from their first event on; each is replayed once.
        targets: In any order.
        prior: [B], as `HabitCounter` takes it.
        config: How to count; None for the defaults.
        places: Whether the bundle knows places, as `HabitCounter` takes it.
        population: As `HabitCounter` takes it.
    """
    found = np.empty((len(targets), len(table.candidates)))
    for row, counter, when, place in replayed(table, targets, lambda: HabitCounter(prior, config, places, population)):
        found[row] = counter.log_probs(when, place)
    return found


def replayed(
    table: EventTable, targets: Targets, new: Callable[[], HabitCounter]
) -> Iterator[tuple[int, HabitCounter, datetime, str]]:
    """Every window's row, the user's counter after all events before it, and the time and place asked about.

    The counter goes on to the user's next window: use it before taking the next item.
    """
    users = table.user_of(targets)
    for user in np.unique(users):
        counter = new()
        seen = int(table.user_offsets[user])
        mine = np.flatnonzero(users == user)
        for row in mine[np.argsort(targets[mine], kind="stable")]:
            target = int(targets[row])
            for index in range(seen, target):
                counter.observe(int(table.behavior[index]), table.time[index].item(), table.places[table.place[index]])
            seen = target
            yield int(row), counter, table.time[target].item(), table.places[table.place[target]]


def accuracy_by_history(
    table: EventTable, targets: Targets, scores: Mapping[str, Floats], history_length: int
) -> list[HistoryBin]:
    """Accuracy of several systems by how many events of the user came before the target.

    Args:
        scores: [n, B] per system, at `targets`.
        history_length: L; the bins are L to 2L, to 4L, to 8L, and above. A bin without windows is left out.
    """
    users = table.user_of(targets)
    events = targets - table.user_offsets[users]
    edges = [history_length * factor for factor in (1, 2, 4, 8)]
    bins = []
    for start, stop in zip(edges, [*edges[1:], None], strict=True):
        inside = (events >= start) & (events < (np.inf if stop is None else stop))
        if inside.any():
            truth = table.behavior[targets[inside]]
            accuracy = {name: float((s[inside].argmax(1) == truth).mean()) for name, s in scores.items()}
            bins.append(HistoryBin(start, stop, int(inside.sum()), len(np.unique(users[inside])), accuracy))
    return bins
