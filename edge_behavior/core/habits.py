"""Habits: a per-user counter over the whole history, with decay and back-off.

Four levels of context, narrowest first: place and hour, place, hour, all. Each keeps decayed counts of the behaviors
seen in that context and backs off to the next wider level where counts are few; the widest backs off to what people in
general do after the user's last two behaviors (`population`), or to the training shares. Without places two levels
remain, hour and all: a level that repeats another would count its events twice. Knows nothing of models and prompts;
`fusion` mixes its distribution with a model's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.candidates import smoothed_shares
from edge_behavior.core.events import clean_place
from edge_behavior.core.fields import DAMAGED_HINT, is_number, is_whole, naming, read_fields, read_list
from edge_behavior.core.population import PopulationTable
from edge_behavior.errors import EdgebError

# Widest first: the order in which they are combined.
LEVELS = ("all", "hour", "place", "place_hour")
# Behaviors that the population's contexts name.
_RECENT = 2
_LEAST_STRENGTH = 1e-3
_LARGEST = 1e9
_CONTEXT_KINDS: dict[str, tuple[type, ...]] = {"all": (), "hour": (int,), "place": (str,), "place_hour": (str, int)}

Context = tuple[Any, ...]
# Candidate -> (weight, number of the event that last changed it).
Counts = dict[int, tuple[float, int]]


@dataclass(frozen=True)
class HabitsConfig:
    """How habits are counted. The defaults were chosen on Foursquare-NYC's validation users.

    The back-off strengths k say how many events the wider level's distribution weighs.

    Attributes:
        hour_bucket: Hours per bucket of the day; divides 24.
        half_life: Events of the user after which a count weighs half; 0 for no decay.
        k_all: Back-off of all events to the training shares.
        k_hour: Back-off of an hour bucket to all events.
        k_place: Back-off of a place to the hour.
        k_place_hour: Back-off of a place at an hour to the place.
    """

    hour_bucket: int = 2
    half_life: float = 100.0
    k_all: float = 160.0
    k_hour: float = 40.0
    k_place: float = 4.0
    k_place_hour: float = 4.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            wanted = int if name == "hour_bucket" else (int, float)
            if isinstance(value, bool) or not isinstance(value, wanted) or not abs(value) <= _LARGEST:
                raise EdgebError(f"habits setting '{name}' is {str(value)[:40]}", "use a number")
        if self.hour_bucket < 1 or 24 % self.hour_bucket:
            raise EdgebError(f"habits setting 'hour_bucket' is {self.hour_bucket}", "use a divisor of 24")
        if self.half_life != 0 and self.half_life < 1:
            raise EdgebError(f"habits setting 'half_life' is {self.half_life}", "use 0 (no decay) or at least 1 event")
        for name in ("k_all", "k_hour", "k_place", "k_place_hour"):
            # Any smaller, and the probability after four levels can underflow.
            if getattr(self, name) < _LEAST_STRENGTH:
                raise EdgebError(
                    f"habits setting '{name}' is {getattr(self, name)}", f"use at least {_LEAST_STRENGTH:g} events"
                )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields that `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object, where: str = "habits") -> HabitsConfig:
        """Read strictly what `to_dict` gave.

        Raises:
            EdgebError: not an object, or a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, [f.name for f in fields(cls)], where)
        with naming(where):
            return cls(**found)


class HabitCounter:
    """One user's decayed counts, and the distribution they give.

    Memory grows with the contexts the user was seen in, not with the number of events. Not thread-safe.

    Args:
        prior: [B] training counts or shares per candidate (`CandidateSet.counts`); all zero gives an even prior.
        config: How to count.
        places: Whether events have places. Without, the two levels of places stay empty.
        population: What a user with few counts is taken to do, in place of the prior; None for the prior.

    Raises:
        EdgebError: a prior that is none, or a population of another number of candidates.
    """

    def __init__(
        self,
        prior: ArrayLike,
        config: HabitsConfig | None = None,
        places: bool = True,
        population: PopulationTable | None = None,
    ) -> None:
        self.config, self.places = config or HabitsConfig(), places
        self._prior, self._population = smoothed_shares(prior), population
        if population is not None and len(population) != len(self._prior):
            raise EdgebError(
                f"the population's table is of {len(population)} candidates, not {len(self._prior)}",
                "use the bundle's own",
            )
        self._recent: tuple[int, ...] = ()
        self._rate = math.log(2) / self.config.half_life if self.config.half_life else 0.0
        self._events = 0
        self._levels: dict[str, dict[Context, Counts]] = {name: {} for name in LEVELS}

    def __len__(self) -> int:
        return len(self._prior)

    @property
    def events(self) -> int:
        """Events observed."""
        return self._events

    def observe(self, code: int, when: datetime, place: str) -> None:
        """Count one event, at a cost that does not depend on the length of the history.

        Args:
            code: Index in the candidate set.
            when: Local time.
            place: Compared once cleaned (`events.clean_place`); ignored without places.

        Raises:
            EdgebError: no such candidate.
        """
        if not 0 <= code < len(self._prior):
            raise EdgebError(f"no candidate has the code {code}", f"codes run from 0 to {len(self._prior) - 1}")
        self._events += 1
        self._recent = (*self._recent, code)[-_RECENT:]
        now, rate = self._events, self._rate
        for level, context in self._contexts(when, place):
            counts = self._levels[level].setdefault(context, {})
            weight, at = counts.get(code, (0.0, now))
            counts[code] = (weight * math.exp(rate * (at - now)) + 1.0, now)

    def log_probs(self, when: datetime, place: str) -> NDArray[np.float64]:
        """Log-probabilities [B] of the next behavior at `when` in `place`; probabilities sum to 1, none is 0.

        Each level mixes its counts c with the distribution q of the next wider one: (c + k·q) / (Σc + k).
        """
        p = self.base(when, place)
        for level, codes, decayed in self.seen(when, place):
            k = float(getattr(self.config, f"k_{level}"))
            p = p * k
            p[codes] += decayed
            p /= decayed.sum() + k
        return np.asarray(np.log(p), dtype=np.float64)

    def base(self, when: datetime, place: str) -> NDArray[np.float64]:
        """What the widest level backs off to: probabilities [B] of the population, or the smoothed training shares."""
        population = self._population
        return self._prior if population is None else population.probs(self._recent, when, place)

    def seen(self, when: datetime, place: str) -> Iterator[tuple[str, NDArray[np.intp], NDArray[np.float64]]]:
        """The user's decayed counts at `when` in `place`: level, candidate codes [e] and counts [e], widest first."""
        for level, context in self._contexts(when, place):
            counts = self._levels[level].get(context)
            if counts is not None:
                codes = np.fromiter(counts, dtype=np.intp, count=len(counts))
                entries = np.fromiter(chain.from_iterable(counts.values()), dtype=np.float64, count=2 * len(counts))
                yield level, codes, entries[::2] * np.exp(self._rate * (entries[1::2] - self._events))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready state that `from_dict` reads; without prior and population."""
        return {
            "config": self.config.to_dict(),
            "size": len(self._prior),
            "events": self._events,
            "recent": list(self._recent),
            "counts": {
                level: [
                    [list(context), [[code, *entry] for code, entry in counts.items()]]
                    for context, counts in contexts.items()
                ]
                for level, contexts in self._levels.items()
            },
        }

    @classmethod
    def from_dict(
        cls,
        values: object,
        prior: ArrayLike,
        where: str = "habits",
        places: bool = True,
        population: PopulationTable | None = None,
    ) -> HabitCounter:
        """Rebuild a counter from `to_dict`; it continues as the saved one would have.

        Args:
            values: What `to_dict` gave, read back from JSON.
            prior: As for the constructor, for the same candidate set.
            where: The file, for error messages.
            places: As for the constructor.
            population: As for the constructor.

        Raises:
            EdgebError: damaged, or saved for a candidate set of another size or with places where there are none.
        """
        found = read_fields(values, ("config", "size", "events", "recent", "counts"), where)
        counter = cls(prior, HabitsConfig.from_dict(found["config"], f"{where}.config"), places, population)
        size, events = found["size"], found["events"]
        if size != len(counter):
            raise EdgebError(
                f"{where} counts {str(size)[:40]} candidates, not {len(counter)}", "use the bundle it was made with"
            )
        if not is_whole(events, 0, int(_LARGEST)):
            raise EdgebError(f"{where}: 'events' is {str(events)[:40]}", DAMAGED_HINT)
        counter._events = events
        recent = read_list(found["recent"], f"{where}.recent", int, min(events, _RECENT))
        if not all(is_whole(code, 0, len(counter)) for code in recent):
            raise EdgebError(f"{where}: 'recent' is {recent}", DAMAGED_HINT)
        counter._recent = tuple(recent)
        counts = read_fields(found["counts"], LEVELS, f"{where}.counts")
        for level in LEVELS:
            counter._levels[level] = counter._read_level(counts[level], level, f"{where}.counts.{level}")
            if not places and str in _CONTEXT_KINDS[level] and counter._levels[level]:
                raise EdgebError(f"{where}.counts.{level} counts places, the bundle has none", DAMAGED_HINT)
        return counter

    def _contexts(self, when: datetime, place: str) -> tuple[tuple[str, Context], ...]:
        hour = when.hour // self.config.hour_bucket
        wide: tuple[tuple[str, Context], ...] = (("all", ()), ("hour", (hour,)))
        if not self.places:
            return wide
        place = clean_place(place)
        return *wide, ("place", (place,)), ("place_hour", (place, hour))

    def _read_level(self, contexts: object, level: str, where: str) -> dict[Context, Counts]:
        held: dict[Context, Counts] = {}
        for pair in read_list(contexts, where):
            named, entries = read_list(pair, where, length=2)
            context = tuple(read_list(named, where, length=len(_CONTEXT_KINDS[level])))
            for part, kind in zip(context, _CONTEXT_KINDS[level], strict=True):
                if not (isinstance(part, str) if kind is str else is_whole(part, 0, 24 // self.config.hour_bucket)):
                    raise EdgebError(f"{where}: bad context {str(named)[:80]}", DAMAGED_HINT)
            if context in held:
                raise EdgebError(f"{where}: context {str(named)[:80]} is listed twice", DAMAGED_HINT)
            held[context] = counts = {}
            for entry in read_list(entries, where):
                code, weight, at = read_list(entry, where, length=3)
                if (
                    not (is_whole(code, 0, len(self)) and is_whole(at, 1, self._events + 1))
                    or not is_number(weight, 1, self._events)
                    or code in counts
                ):
                    raise EdgebError(f"{where}: bad count {str(entry)[:80]}", DAMAGED_HINT)
                counts[code] = (float(weight), at)
        return held
