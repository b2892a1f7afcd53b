"""What is asked while measuring: one user's events, taken from a history file or made up from the candidate set.

Made-up events let a bundle be measured where no log is. Knows nothing of clocks or engines.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.errors import EdgebError
from edge_behavior.records.history import read_history

_PLACES = ("home", "work", "transit", "leisure")
_START = datetime(2024, 3, 4, 7)
_AGAIN = 0.4


@dataclass(frozen=True)
class Question:
    """One prediction to time.

    Attributes:
        history: Events before it, oldest first; the last one is what a session observes in this step.
        when: Time asked for.
        place: Place asked for; None where the bundle has no places.
    """

    history: list[BehaviorEvent]
    when: datetime
    place: str | None

    @property
    def observed(self) -> BehaviorEvent:
        """The event that is new since the question before."""
        return self.history[-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain fields for a child process."""
        history = [[e.place, e.time.isoformat(), e.behavior] for e in self.history]
        return {"history": history, "when": self.when.isoformat(), "place": self.place}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Question:
        """Rebuild from `to_dict`'s result."""
        history = [
            BehaviorEvent(place, datetime.fromisoformat(time), label) for place, time, label in fields["history"]
        ]
        return cls(history, datetime.fromisoformat(fields["when"]), fields["place"])


@dataclass(frozen=True)
class Diary:
    """Consecutive events of one user and the questions they make: after each event, what comes at the next one.

    Attributes:
        events: Oldest first.
        length: L, events in the history of the first question.
        places: Whether questions name a place.
    """

    events: list[BehaviorEvent]
    length: int
    places: bool = True

    def __len__(self) -> int:
        return len(self.events) - self.length - 1

    @property
    def opening(self) -> list[BehaviorEvent]:
        """What a session has seen before the first question's own event."""
        return self.events[: self.length]

    def question(self, i: int) -> Question:
        """The i-th question, with a history of L events."""
        end = self.length + i + 1
        asked = self.events[end]
        return Question(self.events[end - self.length : end], asked.time, asked.place if self.places else None)


def made_up(candidates: CandidateSet, length: int, questions: int, seed: int = 0, places: bool = True) -> Diary:
    """A diary of made-up events: labels as frequent as in training, often the same one again."""
    rng = random.Random(seed)
    weights = [count + 1 for count in candidates.counts]
    when, label, place = _START, candidates.labels[0], _PLACES[0]
    events = []
    for _ in range(length + questions + 1):
        when += timedelta(minutes=rng.randint(2, 120))
        if rng.random() > _AGAIN:
            label = rng.choices(candidates.labels, weights)[0]
            place = rng.choice(_PLACES)
        events.append(BehaviorEvent(place, when, label))
    return Diary(events, length, places)


def from_file(path: Path, candidates: CandidateSet, length: int, questions: int, places: bool = True) -> Diary:
    """A diary read from a history file, repeated some weeks later as often as need be.

    Raises:
        EdgebError: the file cannot be read, or holds fewer than two events whose behaviors are candidates.
    """
    events, _ = read_history(path, places=places).known(candidates)
    if len(events) < 2:
        raise EdgebError(f"{path} holds {len(events)} event(s)", "pass a history of at least 2 events")
    return Diary(_repeated(events, length + questions + 1), length, places)


def _repeated(events: Sequence[BehaviorEvent], count: int) -> list[BehaviorEvent]:
    # Whole weeks, so that days and hours stay as they are.
    first, last = min(e.time for e in events), max(e.time for e in events)
    span = timedelta(weeks=(last - first) // timedelta(weeks=1) + 1)
    rounds = -(-count // len(events))
    if last.year + (span * rounds).days // 365 >= datetime.max.year:
        raise EdgebError(f"the history cannot be repeated {rounds} times", "lower --repeats or pass a longer history")
    return [BehaviorEvent(e.place, e.time + span * k, e.behavior) for k in range(rounds) for e in events][:count]
