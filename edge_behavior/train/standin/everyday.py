"""Synthetic everyday text: the stand-in backbone's pretraining corpus.

Sentences on when and where activities happen, diaries of fictional people with habits, and small talk. Only the names
of labels and places come from the dataset, not their frequencies: the stand-in learns what labels mean and that people
repeat themselves, and nothing of the users it will be tuned on. For controlled experiments some labels can be kept
bare: they are named, without any time, place or related label.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.events import BehaviorEvent
from edge_behavior.errors import EdgebError
from edge_behavior.train.standin.lexicon import DAYPARTS, SENSES, Sense, senses_of

PLACES = ("home", "work", "transit", "leisure")
_WEEK = {"weekday": "on weekdays", "weekend": "on weekends", "any": "on any day"}
_AT = {"home": "at home", "work": "at work", "transit": "on the way", "leisure": "out in town"}
_T = TypeVar("_T")
_FIRST_DAY = datetime(2015, 1, 5)


class EverydayText:
    """A seeded source of sentences, diaries and small talk over a list of activity labels.

    Args:
        labels: Activity names; their words decide what the text says of them.
        places: Place names of the diaries, besides home, work, transit and leisure.
        seed: Same seed, same text.
        bare: Labels that are only named: never in a diary or a talk, nor in a sentence with a time, a place or another
            label.

    Raises:
        EdgebError: fewer than two labels are left that are not bare.
    """

    def __init__(self, labels: Sequence[str], places: Sequence[str], seed: int, bare: Collection[str] = ()) -> None:
        self._labels = list(labels)
        self._bare = np.array([label in bare for label in labels], dtype=np.bool_)
        self._told = np.flatnonzero(~self._bare)
        if self._bare.any() and len(self._told) < 2:
            raise EdgebError("everyday text needs two labels that are not bare", "keep fewer labels bare")
        self._names = sorted({*places, *PLACES})
        self._rng = np.random.default_rng(seed)
        self._senses = [senses_of(label) for label in labels]
        self._hours = np.stack([_hour_profile(senses) for senses in self._senses])
        self._alike = _likeness(self._senses, self._told)

    def sentence(self) -> str:
        """One line about an activity and, if the lexicon knows its words, its time, place and related labels."""
        rng, i = self._rng, int(self._rng.integers(len(self._labels)))
        label = self._labels[i]
        if self._bare[i]:
            return _pick(rng, (f"Some people like {label}.", f"{label} is one of the things people do."))
        other = self._labels[self._neighbour(i)]
        if not self._senses[i]:
            return _pick(rng, (f"Some people like {label}.", f"{label} and {other} are things people do."))
        sense = self._senses[i][int(rng.integers(len(self._senses[i])))]
        part, place = _pick(rng, sense.dayparts), _pick(rng, sense.places)
        start, stop = DAYPARTS[part]
        hour = int(rng.integers(start, stop + 1))
        return _pick(
            rng,
            (
                f"In the {part}, {_WEEK[sense.week]}, many people choose {label}.",
                f"{label} is a kind of {sense.name}, often {_AT[place]}.",
                f"At {hour} o'clock {_AT[place]}: {label}.",
                f"{label} and {other} are alike: both have to do with {sense.name}.",
                f"After {other}, some go on with {label}.",
                f"People who like {other} may like {label} too.",
            ),
        )

    def diary(self, n_events: int) -> list[BehaviorEvent]:
        """Consecutive events of one fictional person with places, routines and favorite activities.

        Most of the time people repeat what they do in a place, some also by time of day; else they do something they
        like, something related to what they just did, or anything that suits the hour.
        """
        rng = self._rng
        n_places = int(min(1 + rng.geometric(0.35), 7))
        names = [self._names[k] for k in rng.choice(len(self._names), n_places)]
        by_part = rng.dirichlet(np.full(n_places, 0.5), size=(2, len(DAYPARTS)))
        loyalty, by_hour = rng.beta(3, 1), rng.random() < 0.5
        liked = rng.choice(self._told, int(rng.integers(2, 10)))
        habits: dict[tuple[int, int, int], int] = {}
        when = _FIRST_DAY + timedelta(minutes=int(rng.integers(0, 7 * 24 * 60)))
        hours_apart = float(np.exp(rng.uniform(np.log(0.4), np.log(20.0))))
        events: list[BehaviorEvent] = []
        previous = int(liked[0])
        for _ in range(n_events):
            when += timedelta(minutes=1 + int(60 * hours_apart * rng.exponential()))
            part, weekend = _daypart(when.hour), int(when.weekday() >= 5)
            place = int(rng.choice(n_places, p=by_part[weekend, part]))
            slot = (place, part, weekend) if by_hour else (place, 0, 0)
            draw = rng.random()
            if draw < loyalty:
                if slot not in habits:
                    habits[slot] = self._suited(liked, when.hour)
                choice = habits[slot]
            elif draw < loyalty + 0.5 * (1 - loyalty):
                choice = self._suited(liked, when.hour)
            elif draw < loyalty + 0.75 * (1 - loyalty):
                choice = self._neighbour(previous)
            else:
                choice = self._suited(self._told, when.hour)
            previous = choice
            events.append(BehaviorEvent(names[place], when, self._labels[choice]))
        return events

    def small_talk(self) -> list[tuple[str, str]]:
        """A short conversation as (role, text) turns, role "user" or "assistant", ending with the assistant."""
        rng = self._rng
        turns: list[tuple[str, str]] = []
        for _ in range(int(rng.integers(1, 3))):
            i = int(self._told[rng.integers(len(self._told))])
            label, other = self._labels[i], self._labels[self._neighbour(i)]
            senses = self._senses[i]
            part = _pick(rng, senses[0].dayparts) if senses else "afternoon"
            about = senses[0].name if senses else "everyday life"
            turns += _pick(
                rng,
                (
                    (("user", f"When do people go for {label}?"), ("assistant", f"Often in the {part}.")),
                    (("user", f"What is like {label}?"), ("assistant", f"{other} comes close.")),
                    (("user", f"I am bored of {label}."), ("assistant", f"Then try {other} in the {part}.")),
                    (("user", f"What has {label} to do with?"), ("assistant", f"It has to do with {about}.")),
                ),
            )
        return turns

    def documents(self) -> Iterator[str | list[BehaviorEvent]]:
        """An endless mix of paragraphs and small talk (text), and diaries (events)."""
        while True:
            draw = self._rng.random()
            if draw < 0.1:
                yield " ".join(self.sentence() for _ in range(4)) + "\n"
            elif draw < 0.13:
                yield "".join(f"{role}: {text}\n" for role, text in self.small_talk())
            else:
                yield self.diary(int(self._rng.integers(8, 60)))

    def _suited(self, pool: NDArray[np.int64], hour: int) -> int:
        weights = self._hours[pool, hour]
        return int(self._rng.choice(pool, p=weights / weights.sum()))

    def _neighbour(self, i: int) -> int:
        return int(self._rng.choice(self._alike[i]))


def _pick(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    return options[int(rng.integers(len(options)))]


def _daypart(hour: int) -> int:
    return next(i for i, (_, stop) in enumerate(DAYPARTS.values()) if hour <= stop)


def _hour_profile(senses: tuple[Sense, ...]) -> NDArray[np.float64]:
    profile = np.full(24, 0.15)
    for sense in senses:
        for part in sense.dayparts:
            start, stop = DAYPARTS[part]
            profile[start : stop + 1] += 1.0
    return profile if senses else np.ones(24)


def _likeness(senses: Sequence[tuple[Sense, ...]], told: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Per label the indices among `told` that share a sense with it; all others if none does."""
    member = np.array([[sense in own for sense in SENSES] for own in senses])
    shared = (member[:, None, :] & member[None, :, :]).any(-1)
    np.fill_diagonal(shared, False)
    alike = [told[row[told]] for row in shared]
    return [found if len(found) else told[told != i] for i, found in enumerate(alike)]
