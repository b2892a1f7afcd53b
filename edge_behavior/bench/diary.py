"""The predictions to time: one user's events, read from a history file or drawn from the bundle's label frequencies.

Synthetic events let a bundle be measured where there is no log. Knows nothing of clocks or engines.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from edge_behavior.bench.options import HistoryFile
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.errors import EdgebError

_PLACES = ("home", "work", "transit", "leisure")
_START = datetime(2024, 3, 4, 7)
# Probability that a synthetic event repeats the one before it.
_REPEAT = 0.4


@dataclass(frozen=True)
class Case:
    """One prediction to time.

    Attributes:
        history: Events before it, oldest first; the last one is what a session observes in this step.
        when: Time to predict for.
        place: Place to predict for; None where the bundle has no places.
    """

    history: list[BehaviorEvent]
    when: datetime
    place: str | None

    @property
    def observed(self) -> BehaviorEvent:
        """The event that is new since the case before."""
        return self.history[-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain fields for another process."""
        history = [[e.place, e.time.isoformat(), e.behavior] for e in self.history]
        return {"history": history, "when": self.when.isoformat(), "place": self.place}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Case:
        """Rebuild from `to_dict`'s result."""
        history = [
            BehaviorEvent(place, datetime.fromisoformat(time), label) for place, time, label in fields["history"]
        ]
        return cls(history, datetime.fromisoformat(fields["when"]), fields["place"])


@dataclass(frozen=True)
class Diary:
    """Consecutive events of one user and the cases they make: after each event, predict the next one.

    Attributes:
        events: Oldest first.
        length: L, events in a case's history.
        places: Whether cases name a place.
    """

    events: list[BehaviorEvent]
    length: int
    places: bool = True

    def __len__(self) -> int:
        return len(self.events) - self.length - 1

    @property
    def first_window(self) -> list[BehaviorEvent]:
        """The L events that a session has seen before the first case."""
        return self.events[: self.length]

    def case(self, i: int) -> Case:
        """The i-th case, with a history of L events."""
        end = self.length + i + 1
        target = self.events[end]
        return Case(self.events[end - self.length : end], target.time, target.place if self.places else None)


def synthetic_diary(candidates: CandidateSet, length: int, cases: int, seed: int = 0, places: bool = True) -> Diary:
    """A diary of synthetic events: labels as frequent as in training, often the same one again."""
    rng = random.Random(seed)
    weights = [count + 1 for count in candidates.counts]
    when, label, place = _START, candidates.labels[0], _PLACES[0]
    events = []
    for _ in range(length + cases + 1):
        when += timedelta(minutes=rng.randint(2, 120))
        if rng.random() > _REPEAT:
            label = rng.choices(candidates.labels, weights)[0]
            place = rng.choice(_PLACES)
        events.append(BehaviorEvent(place, when, label))
    return Diary(events, length, places)


def diary_of(history: HistoryFile, candidates: CandidateSet, length: int, cases: int, places: bool = True) -> Diary:
    """A diary read from a history file, repeated some weeks later as often as need be.

    Raises:
        EdgebError: the file cannot be read, or holds fewer than two events whose behaviors are candidates.
    """
    events, _ = history.read(places).known(candidates)
    if len(events) < 2:
        raise EdgebError(f"{history.path} holds {len(events)} event(s)", "pass a history of at least 2 events")
    return Diary(_repeated(events, length + cases + 1), length, places)


def _repeated(events: Sequence[BehaviorEvent], count: int) -> list[BehaviorEvent]:
    # Whole weeks, so that days and hours stay as they are.
    first, last = min(e.time for e in events), max(e.time for e in events)
    span = timedelta(weeks=(last - first) // timedelta(weeks=1) + 1)
    rounds = -(-count // len(events))
    if last.year + (span * rounds).days // 365 >= datetime.max.year:
        raise EdgebError(f"the history cannot be repeated {rounds} times", "lower --repeats or pass a longer history")
    return [BehaviorEvent(e.place, e.time + span * k, e.behavior) for k in range(rounds) for e in events][:count]
