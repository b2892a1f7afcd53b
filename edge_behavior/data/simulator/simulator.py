"""A seeded simulator of phone users, for demos and tests without a private log.

Writes a plain log (user_id, timestamp, place, behavior) that is imported like any other. Users have traits; each hour
of a day has a place and perhaps a burst (a run of events minutes apart); `next_distribution` gives the probability of
each behavior. Knows nothing of prompts or models. docs/data.md describes the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_behavior.data.simulator.behaviors import BEHAVIORS, FIRST_HOUR, HOURS, LABELS, PLACES, Behavior, daypart
from edge_behavior.data.simulator.next_behavior import NONE, Floats, Ints, State, Tables, next_distribution
from edge_behavior.errors import EdgebError
from edge_behavior.util.files import new_file

Bools = NDArray[np.bool_]

START = date(2024, 3, 1)  # the first day of the paper's log

# Per place: probability of a burst in an hour, and of one more event in a burst.
BUSY = np.array([0.42, 0.26, 0.65, 0.36])
EVENING_AT_HOME = 1.35  # factor on BUSY at home from 19:00
GO_ON = np.array([0.74, 0.66, 0.72, 0.68])
MAX_BURST, MAX_GAP = 8, 4  # events, minutes
MAX_USERS = 10**7
LANES_PER_BLOCK = 12_000  # user-days drawn at once; bounds memory, and changing it changes what a seed gives

HOME, WORK, TRANSIT, LEISURE = range(len(PLACES))
HEADER = "user_id,timestamp,place,behavior\n"


@dataclass(frozen=True)
class Events:
    """Simulated events of whole users, sorted by user and time; all arrays have shape [n].

    Attributes:
        users: User numbers from 0.
        minutes: Minutes since 00:00 of the first day.
        places: Indices into PLACES.
        behaviors: Indices into LABELS.
        most_likely: The behavior with the highest probability, given the full state of the simulator.
        highest_lift: The behavior with the highest ratio of probability to overall share: the best guess when all
            behaviors count equally.
        probabilities: Probability of the behavior that was drawn.
    """

    users: Ints
    minutes: Ints
    places: Ints
    behaviors: Ints
    most_likely: Ints
    highest_lift: Ints
    probabilities: Floats


@dataclass(frozen=True)
class _Users:
    """Persistent traits of n users.

    Attributes:
        worker: Whether the user has a workplace, [n].
        wake, leave, back, sleep: Hours of the simulated day, [n].
        out: Probability of going out, per day of the week, [n, 7].
        late: Probability that going out lasts into the night, [n, 7].
        busy: Factor on the probability of a burst, per hour, [n, HOURS].
        base: Distribution of a fresh behavior per place, daypart, weekend, [n, places, dayparts, 2, B].
        usual: The behavior that usually opens a burst there, [n, places, dayparts, 2].
        habit_hour: First hour of a habit's slot, or -1 where the user lacks the habit, [n, habits].
    """

    worker: Bools
    wake: Ints
    leave: Ints
    back: Ints
    sleep: Ints
    out: Floats
    late: Floats
    busy: Floats
    base: Floats
    usual: Ints
    habit_hour: Ints


def _draw_codes(probabilities: Floats, rng: np.random.Generator) -> Ints:
    """One index per row of distributions [..., B]."""
    cumulative = np.cumsum(probabilities, axis=-1)
    spin = rng.random(cumulative.shape[:-1])[..., None] * cumulative[..., -1:]
    codes: Ints = np.minimum((cumulative <= spin).sum(axis=-1), cumulative.shape[-1] - 1)
    return codes


def _integers(rng: np.random.Generator, low: int, high: int, shape: int | tuple[int, ...]) -> Ints:
    """Uniform integers in [low, high], made of `random`, whose stream is the same in every NumPy version."""
    return low + (rng.random(shape) * (high - low + 1)).astype(np.int64)


def _draw_users(count: int, tables: Tables, rng: np.random.Generator) -> _Users:
    worker = rng.random(count) < 0.8
    wake = _integers(rng, 6, 7, count)
    leave = _integers(rng, 7, 9, count)
    back = _integers(rng, 17, 19, count)
    sleep = _integers(rng, 22, 25, count)
    # Users go out on about two fixed days of the week, and rarely on others.
    weekend = np.array([d >= 5 for d in range(7)])
    goes = rng.random((count, 7)) < np.where(weekend, 0.6, 0.25)
    out = np.where(goes, 0.8, 0.08)
    late = np.where(rng.random((count, 1)) < 0.5, np.array([0.1, 0.1, 0.1, 0.1, 0.8, 0.6, 0.1]), 0.05)
    level = 0.65 + 0.7 * rng.random((count, 1))
    busy = level * (0.4 + 1.2 * rng.random((count, HOURS)))
    taste = rng.random((count, tables.size))
    base = tables.slots * ((0.35 + taste) / (1.35 - taste))[:, None, None, None, :]
    base /= base.sum(axis=-1, keepdims=True)
    hours = np.array([h.hours for h in tables.habits])
    spread = rng.random((count, len(tables.habits)))
    first = hours[:, 0] + (spread * (hours[:, 1] - hours[:, 0])).astype(np.int64)
    owned = rng.random((count, len(tables.habits))) < tables.owners
    return _Users(
        worker, wake, leave, back, sleep, out, late, busy, base, _draw_codes(base, rng), np.where(owned, first, -1)
    )


def _draw_places(users: _Users, who: Ints, weekday: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Place per day and hour, [lanes, HOURS], and the hour at which the day ends, [lanes]."""
    n = len(who)
    works = users.worker[who] & (weekday < 5)
    goes = rng.random(n) < users.out[who, weekday]
    late = goes & (rng.random(n) < users.late[who, weekday])
    daytime = _integers(rng, 10, 14, n)
    night_start = _integers(rng, 18, 19, n)
    stay = _integers(rng, 2, 4, n)
    night_end = _integers(rng, 22, 24, n)
    leaves = np.where(works, users.back[who], np.where(late, night_start, daytime))
    returns = np.where(late, night_end, leaves + stay)
    hour = np.arange(FIRST_HOUR, FIRST_HOUR + HOURS)[None, :]
    works, goes = works[:, None], goes[:, None]
    leave, back = users.leave[who][:, None], users.back[who][:, None]
    places = np.full((n, HOURS), HOME)
    places[works & (hour > leave) & (hour < back)] = WORK
    places[works & ((hour == leave) | (hour == back))] = TRANSIT
    places[goes & (hour > leaves[:, None]) & (hour < returns[:, None])] = LEISURE
    places[goes & ((hour == leaves[:, None]) | (hour == returns[:, None]))] = TRANSIT
    ends = np.maximum(users.sleep[who], np.where(late, night_end + 1, 0))
    return places, ends


def _draw_bursts(users: _Users, who: Ints, places: Ints, ends: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Number of events per hour, [lanes, HOURS], and their minutes, [lanes, HOURS, MAX_BURST]."""
    n = len(who)
    hour = np.arange(FIRST_HOUR, FIRST_HOUR + HOURS)[None, :]
    awake = (hour >= users.wake[who][:, None]) & (hour <= ends[:, None])
    evening = np.where((hour >= 19) & (places == HOME), EVENING_AT_HOME, 1.0)
    chance = np.minimum(BUSY[places] * evening * users.busy[who], 0.95) * awake
    going = rng.random((n, HOURS)) < chance
    reach = np.cumprod(np.repeat(GO_ON[:, None], MAX_BURST - 1, axis=1), axis=1)  # probability of more than k events
    lengths = going * (1 + (rng.random((n, HOURS, 1)) < reach[places]).sum(axis=2))
    # A burst stays inside its clock hour, so that a history shows where it begins.
    gaps = _integers(rng, 1, MAX_GAP, (n, HOURS, MAX_BURST))
    gaps[:, :, 0] = _integers(rng, 0, 59 - MAX_GAP * (MAX_BURST - 1), (n, HOURS))
    return lengths, np.cumsum(gaps, axis=2)


def _simulate_block(
    users: _Users, first_user: int, days: int, start: date, tables: Tables, rng: np.random.Generator
) -> Events:
    """All events of one block of users. A lane is one day of one user; all lanes are drawn at once."""
    count = len(users.wake)
    who = np.repeat(np.arange(count), days)
    day = np.tile(np.arange(days), count)
    weekday = (start.weekday() + day) % 7
    weekend = (weekday >= 5).astype(np.int64)
    places, ends = _draw_places(users, who, weekday, rng)
    lengths, minutes = _draw_bursts(users, who, places, ends, rng)
    shape = minutes.shape
    behaviors = np.full(shape, -1, dtype=np.int64)
    most_likely, highest_lift = np.zeros((2, *shape), dtype=np.int64)
    probabilities = np.zeros(shape)
    previous = np.full(len(who), NONE)
    done = np.zeros((len(who), len(tables.habits)), dtype=np.bool_)
    for h in range(HOURS):
        hour = h + FIRST_HOUR
        opened = users.habit_hour[who]
        slot = (
            (opened >= 0)
            & (hour >= opened)
            & (hour <= opened + 1)
            & (places[:, h, None] == tables.place)
            & tables.days[weekday]
        )
        before = np.full(len(who), NONE)
        for k in range(MAX_BURST):
            lanes = np.flatnonzero(lengths[:, h] > k)
            if not len(lanes):
                break
            kind = (who[lanes], places[lanes, h], daypart(hour), weekend[lanes])
            state = State(
                users.base[kind],
                users.usual[kind],
                k == 0,
                previous[lanes],
                before[lanes],
                slot[lanes] & ~done[lanes],
            )
            chances = next_distribution(state, tables)
            drawn = _draw_codes(chances, rng)
            behaviors[lanes, h, k] = drawn
            most_likely[lanes, h, k] = chances.argmax(axis=1)
            highest_lift[lanes, h, k] = (chances / tables.share).argmax(axis=1)
            probabilities[lanes, h, k] = chances[np.arange(len(lanes)), drawn]
            done[lanes] |= drawn[:, None] == tables.tail
            before[lanes] = previous[lanes] if k else NONE
            previous[lanes] = drawn
    when = day[:, None, None] * 1440 + (np.arange(HOURS)[None, :, None] + FIRST_HOUR) * 60 + minutes
    kept = (behaviors >= 0) & (when < days * 1440)  # the last night is cut at midnight
    return Events(
        np.broadcast_to(who[:, None, None], shape)[kept] + first_user,
        when[kept],
        np.broadcast_to(places[:, :, None], shape)[kept],
        behaviors[kept],
        most_likely[kept],
        highest_lift[kept],
        probabilities[kept],
    )


def generate(
    users: int,
    days: int,
    seed: int,
    start: date = START,
    behaviors: Sequence[Behavior] = BEHAVIORS,
) -> Iterator[Events]:
    """Simulate users block by block, in user order.

    Args:
        users: Number of users.
        days: Days from `start` on; there are no events before 05:00 of the first or after midnight of the last.
        seed: The same arguments give the same events.
        start: The first day; its day of the week matters.

    Raises:
        EdgebError: users or days below 1, too many users, a negative seed, or an end beyond the calendar.
    """
    for name, value, least, most in (("users", users, 1, MAX_USERS), ("days", days, 1, None), ("seed", seed, 0, None)):
        if value < least:
            raise EdgebError(f"--{name} is {value}", f"use {least} or more")
        if most is not None and value > most:
            raise EdgebError(f"--{name} is {value}", f"use at most {most}")
    if days > (date.max - start).days:
        raise EdgebError(f"{days} days from {start} end after the year {date.max.year}", "use fewer days")
    return _blocks(users, days, seed, start, behaviors)


def _blocks(users: int, days: int, seed: int, start: date, behaviors: Sequence[Behavior]) -> Iterator[Events]:
    tables = Tables(behaviors)
    size = max(1, LANES_PER_BLOCK // days)
    for block, first in enumerate(range(0, users, size)):
        rng = np.random.Generator(np.random.PCG64([seed, block]))
        traits = _draw_users(min(size, users - first), tables, rng)
        yield _simulate_block(traits, first, days, start, tables, rng)


def simulate(users: int, days: int, seed: int, out_csv: Path, start: date = START, force: bool = False) -> None:
    """Write a simulated log: user_id, timestamp (local, to the minute), place, behavior; sorted by user and time.

    The same arguments give the same bytes. The file appears only when it is complete.

    Raises:
        EdgebError: an argument out of range, the file exists (and not `force`), or it cannot be written.
    """
    blocks = generate(users, days, seed, start)
    dates = [(start + timedelta(days=d)).isoformat() for d in range(days)]
    clock = [f"T{m // 60:02d}:{m % 60:02d}," for m in range(1440)]
    endings = [f"{place},{label}\n" for place in PLACES for label in LABELS]
    width = max(5, len(str(users)))
    with new_file(out_csv, replace=force) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        file.write(HEADER)
        for events in blocks:
            day, minute = np.divmod(events.minutes, 1440)
            ending = events.places * len(LABELS) + events.behaviors
            columns = (events.users.tolist(), day.tolist(), minute.tolist(), ending.tolist())
            file.writelines(
                f"u{u + 1:0{width}d},{dates[d]}{clock[m]}{endings[e]}" for u, d, m, e in zip(*columns, strict=True)
            )
