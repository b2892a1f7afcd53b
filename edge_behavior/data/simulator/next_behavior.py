"""The conditional distribution of the next behavior, which the simulator draws from.

One function, `next_distribution`, and its lookup tables. Knows neither users' calendars nor files; `simulator` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.data.simulator.behaviors import (
    COMPLETE,
    CROWDED,
    CUED,
    DAYPARTS,
    FIRST_LINK,
    FOLLOW,
    LABELS,
    NOISE,
    PLACES,
    RESUME,
    ROUTINE,
    Behavior,
    Habit,
    Routine,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NONE = len(LABELS)  # no previous behavior


class Tables:
    """The behavior table as arrays. A code is an index into LABELS."""

    def __init__(self, behaviors: Sequence[Behavior]) -> None:
        code = {b.label: i for i, b in enumerate(behaviors)}
        n = len(behaviors)
        self.size = n
        self.share = np.array([b.share for b in behaviors])
        self.share /= self.share.sum()
        self.stay = np.array([*(b.stay for b in behaviors), 0.0])
        self.follow = np.zeros((n + 1, n))
        self.slots = np.zeros((len(PLACES), len(DAYPARTS), 2, n))
        for i, behavior in enumerate(behaviors):
            cause = behavior.cause
            links = cause.leads_to if isinstance(cause, Routine) else (cause.near,)
            chances = (FIRST_LINK, 1 - FIRST_LINK) if len(links) == 2 else (1.0,)
            for label, chance in zip(links, chances, strict=True):
                self.follow[i, code[label]] = chance
            if isinstance(cause, Routine):
                profile = np.multiply.outer(np.array(cause.places), np.array(cause.dayparts))
                self.slots[..., i] = cause.weight * np.multiply.outer(profile, np.array([1.0, cause.weekend]))
        habits = [(i, b.cause) for i, b in enumerate(behaviors) if isinstance(b.cause, Habit)]
        self.habits: list[Habit] = [h for _, h in habits]
        self.tail = np.array([i for i, _ in habits])
        self.first_cue = np.array([code[h.cues[0]] for h in self.habits])
        self.last_cue = np.array([code[h.cues[-1]] for h in self.habits])
        self.cues = np.array([len(h.cues) for h in self.habits])
        self.start = np.array([h.start for h in self.habits])
        self.owners = np.array([h.users for h in self.habits])
        self.place = np.array([PLACES.index(h.place) for h in self.habits])
        self.days = np.array([[d in h.days for h in self.habits] for d in range(7)])


@dataclass(frozen=True)
class State:
    """What the next behavior depends on, for n events drawn at once.

    Attributes:
        fresh: The user's distribution of a fresh behavior at this place, daypart and kind of day, [n, B].
        usual: The behavior that usually opens the user's bursts there, [n].
        first: Whether the events open a burst.
        previous: The previous behavior, possibly of an earlier burst that day, or NONE, [n].
        before: The one before that in the same burst, or NONE, [n].
        active: Habits whose slot this is and that were not done today, [n, habits].
    """

    fresh: Floats
    usual: Ints
    first: bool
    previous: Ints
    before: Ints
    active: Bools


def next_distribution(state: State, tables: Tables) -> Floats:
    """The true distribution of the next behavior, [n, B]: the whole model of behavior."""
    rows, fresh = np.arange(len(state.fresh)), state.fresh
    known = state.previous < NONE
    if state.first:
        resume = np.where(known, RESUME, 0.0)
        chances = (1 - ROUTINE - resume)[:, None] * fresh
        chances[rows, state.usual] += ROUTINE
        chances[rows[known], state.previous[known]] += RESUME
    else:
        stay = tables.stay[state.previous]
        chances = (1 - stay)[:, None] * (FOLLOW * tables.follow[state.previous] + (1 - FOLLOW) * fresh)
        chances[rows, state.previous] += stay
    busy = np.flatnonzero(state.active.any(axis=1))
    if len(busy):
        pull = _habit_pull(state, busy, tables)
        total = pull.sum(axis=1, keepdims=True)
        pull *= CROWDED / np.maximum(total, CROWDED)
        chances[busy] = pull + (1 - np.minimum(total, CROWDED)) * chances[busy]
    mixed: Floats = (1 - NOISE) * chances + NOISE * tables.share
    return mixed


def _habit_pull(state: State, busy: Ints, tables: Tables) -> Floats:
    """Probability mass that active habits claim for their cues and for themselves, [len(busy), B]."""
    active = state.active[busy]
    pull = np.zeros((len(busy), tables.size))
    if state.first:
        begins = active * tables.start
        pull[:, tables.tail] = (1 - CUED) * begins
        for habit, cue in enumerate(tables.first_cue):
            pull[:, cue] += CUED * begins[:, habit]
        return pull
    previous, before = state.previous[busy][:, None], state.before[busy][:, None]
    one_cue = tables.cues == 1
    completes = active & (previous == tables.last_cue) & (one_cue | (before == tables.first_cue))
    halfway = active & ~one_cue & (previous == tables.first_cue) & ~completes
    pull[:, tables.tail] = COMPLETE * completes
    for habit, cue in enumerate(tables.last_cue):
        pull[:, cue] += COMPLETE * halfway[:, habit]
    return pull
