"""The simulator: same seed same bytes, the published shape, and tail behaviors that their context brings about."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.data.simulator import simulator as synth
from edge_behavior.data.simulator.behaviors import (
    ANCHORS,
    BEHAVIORS,
    FIRST_HOUR,
    HOURS,
    LABELS,
    NOISE,
    PLACES,
    TAILS,
    Habit,
    Routine,
)
from edge_behavior.data.simulator.next_behavior import NONE, State, Tables, next_distribution
from edge_behavior.errors import EdgebError

ROOT = Path(__file__).parents[4]
B = len(LABELS)
HABITS = {b.label: b.cause for b in TAILS if isinstance(b.cause, Habit)}


@pytest.fixture(scope="module")
def events() -> synth.Events:
    """400 users for 30 days from Friday 1 March 2024."""
    blocks = list(synth.generate(400, 30, 7))
    names = synth.Events.__dataclass_fields__
    return synth.Events(**{name: np.concatenate([getattr(block, name) for block in blocks]) for name in names})


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# The table


def test_table_is_consistent() -> None:
    anchors = {b.label for b in ANCHORS}
    assert (len(ANCHORS), len(TAILS)) == (16, 21)
    assert sum(b.share for b in BEHAVIORS) == pytest.approx(1.0, abs=1e-6)
    assert all(b.share > 0.01 for b in ANCHORS)
    assert all(0.0002 <= b.share < 0.006 for b in TAILS)
    assert CandidateSet.of(LABELS).labels == LABELS  # clean, and distinct beyond case and space
    for behavior in ANCHORS:
        assert isinstance(behavior.cause, Routine)
        assert set(behavior.cause.leads_to) <= anchors
        assert len(behavior.cause.leads_to) in (1, 2)
    for habit in HABITS.values():
        assert {habit.near, *habit.cues} <= anchors
        assert len(habit.cues) in (1, 2)
        assert habit.place in PLACES
        assert set(habit.days) <= set(range(7))
        assert FIRST_HOUR <= habit.hours[0] < habit.hours[1] < FIRST_HOUR + HOURS
        assert 0 < habit.start <= 0.95
        assert 0 < habit.users <= 1


# The file


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        synth.simulate(20, 5, seed, tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_independent_of_process_and_hash_seed(tmp_path: Path) -> None:
    synth.simulate(20, 5, 5, tmp_path / "here.csv")
    code = (
        "import sys, pathlib; from edge_behavior.data.simulator.simulator import simulate\n"
        "simulate(20, 5, 5, pathlib.Path(sys.argv[1]))\n"
        "assert not {'torch', 'duckdb', 'pyarrow', 'matplotlib'} & set(sys.modules), 'heavy import'"
    )
    for hash_seed in ("0", "4242"):
        out = tmp_path / f"{hash_seed}.csv"
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code, str(out)], check=True, env=environment)
        digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "here.csv", out)}
        assert len(digests) == 1


def test_file_is_a_sorted_log_of_known_values(tmp_path: Path) -> None:
    synth.simulate(12, 9, 1, tmp_path / "log.csv", start=date(2024, 2, 26))
    rows = read(tmp_path / "log.csv")
    assert list(rows[0]) == ["user_id", "timestamp", "place", "behavior"]
    assert {r["place"] for r in rows} <= set(PLACES)
    assert {r["behavior"] for r in rows} <= set(LABELS)
    assert [r["user_id"] for r in rows] == sorted(r["user_id"] for r in rows)
    assert len({r["user_id"] for r in rows}) == 12
    last: dict[str, datetime] = {}
    for row in rows:
        assert len(row["timestamp"]) == len("2024-02-26T08:00")
        when = datetime.fromisoformat(row["timestamp"])
        assert date(2024, 2, 26) <= when.date() <= date(2024, 3, 5)
        assert when > last.get(row["user_id"], datetime.min)
        last[row["user_id"]] = when
        assert row["place"] != "work" or when.weekday() < 5


def test_file_and_generator_agree(tmp_path: Path) -> None:
    synth.simulate(7, 3, 2, tmp_path / "log.csv")
    rows = read(tmp_path / "log.csv")
    (block,) = synth.generate(7, 3, 2)
    assert [r["behavior"] for r in rows] == [LABELS[b] for b in block.behaviors]
    assert [r["place"] for r in rows] == [PLACES[p] for p in block.places]
    midnight = datetime(2024, 3, 1)
    assert [(datetime.fromisoformat(r["timestamp"]) - midnight).total_seconds() / 60 for r in rows] == list(
        block.minutes
    )


def test_blocks_join_without_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "LANES_PER_BLOCK", 30)
    blocks = list(synth.generate(11, 10, 3))
    assert [sorted(set(b.users.tolist())) for b in blocks] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]
    assert blocks[0].behaviors.tolist() != blocks[1].behaviors.tolist()


def test_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "log.csv"
    out.write_text("mine")
    with pytest.raises(EdgebError, match="exists"):
        synth.simulate(2, 2, 0, out)
    assert out.read_text() == "mine"
    synth.simulate(2, 2, 0, out, force=True)
    assert out.read_text().startswith("user_id,timestamp,place,behavior\n")


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(synth.generate(1, 1, 0))

    def full(*_: object) -> Iterator[synth.Events]:
        yield first
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EdgebError, match="no such file or folder"):
        synth.simulate(2, 2, 0, tmp_path / "missing" / "log.csv")
    monkeypatch.setattr(synth, "_blocks", full)
    with pytest.raises(EdgebError, match="the disk is full"):
        synth.simulate(2, 2, 0, tmp_path / "log.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("users", "days", "seed", "field"),
    [(0, 5, 0, "users"), (5, 0, 0, "days"), (5, -1, 0, "days"), (5, 5, -1, "seed"), (5, 10**7, 0, "days")],
)
def test_bad_arguments(tmp_path: Path, users: int, days: int, seed: int, field: str) -> None:
    with pytest.raises(EdgebError, match=field) as error:
        synth.simulate(users, days, seed, tmp_path / "log.csv")
    assert error.value.hint
    assert not list(tmp_path.iterdir())


# The shape


def test_shares_have_the_published_shape(events: synth.Events) -> None:
    counts = np.bincount(events.behaviors, minlength=B)
    shares = counts / counts.sum()
    assert CandidateSet.of(LABELS, counts.tolist()).groups().count("head") == 5
    assert np.flatnonzero(shares > 0.01).tolist() == list(range(16))
    assert shares[:16].sum() == pytest.approx(0.97, abs=0.005)
    assert shares.max() == pytest.approx(0.43, abs=0.02)
    assert 0.0001 < shares.min() < 0.0003
    target = np.array([b.share for b in BEHAVIORS])
    np.testing.assert_allclose(shares[:16], target[:16], rtol=0.2)
    np.testing.assert_allclose(shares[16:], target[16:], rtol=0.5)


def test_events_per_user_day(events: synth.Events) -> None:
    per_user = np.bincount(events.users) / 30
    assert 20 < per_user.mean() < 32
    assert per_user.min() > 8
    assert per_user.max() < 60


def test_bursts_stay_in_a_clock_hour(events: synth.Events) -> None:
    hours = events.users * 30 * 24 + events.minutes // 60
    _, sizes = np.unique(hours, return_counts=True)
    assert sizes.max() == synth.MAX_BURST
    assert 2 < sizes.mean() < 4


def test_places_follow_the_week(events: synth.Events) -> None:
    weekday = (4 + events.minutes // 1440) % 7
    hour = events.minutes // 60 % 24
    office = (weekday < 5) & (hour >= 10) & (hour < 17)
    work = events.places == PLACES.index("work")
    assert work[office].mean() > 0.5
    assert not work[weekday >= 5].any()
    assert set(events.places.tolist()) == set(range(len(PLACES)))


# What can be predicted


def in_slot(habit: Habit, events: synth.Events) -> np.ndarray:
    # The simulated day starts at 05:00, so an hour past midnight belongs to the day before.
    shifted = events.minutes - FIRST_HOUR * 60
    hour = shifted // 60 % 24 + FIRST_HOUR
    weekday = (4 + shifted // 1440) % 7
    return (
        (events.places == PLACES.index(habit.place))
        & np.isin(weekday, habit.days)
        & (hour >= habit.hours[0])
        & (hour <= habit.hours[1])
    )


@pytest.mark.parametrize("label", list(HABITS))
def test_trigger_brings_the_tail_behavior(events: synth.Events, label: str) -> None:
    habit, code = HABITS[label], LABELS.index(label)
    burst = events.users * 10**6 + events.minutes // 60
    cued = in_slot(habit, events)
    for lag, cue in enumerate(reversed(habit.cues), start=1):
        same = np.zeros(len(burst), dtype=bool)
        same[lag:] = (burst[lag:] == burst[:-lag]) & (events.behaviors[:-lag] == LABELS.index(cue))
        cued &= same
    base = (events.behaviors == code).mean()
    rate = (events.behaviors[cued] == code).mean()
    assert cued.sum() >= 20
    assert rate > 25 * base
    assert rate > 0.03


def test_habits_belong_to_users_and_their_hours(events: synth.Events) -> None:
    hours: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for user, minute, behavior in zip(events.users, events.minutes, events.behaviors, strict=True):
        hours[int(user), int(behavior)][int(minute) // 60 % 24] += 1
    for label in ("Read Comics", "Stock Trading", "Listen to Podcast", "Learn Language"):
        of_users = [c for (_, b), c in hours.items() if b == LABELS.index(label) and c.total() >= 6]
        assert 0.02 * 400 < len(of_users) < HABITS[label].users * 400
        best_two = [max(c[h] + c[(h + 1) % 24] for h in range(24)) / c.total() for c in of_users]
        assert np.mean(best_two) > 0.9


def test_oracle_leaves_room_above_counting_and_below_one(events: synth.Events) -> None:
    truth, tail = events.behaviors, np.arange(16, B)

    def recalls(guess: np.ndarray) -> np.ndarray:
        return np.array([(guess[truth == code] == code).mean() for code in range(B)])

    assert 0.63 < (events.most_likely == truth).mean() < 0.70
    assert recalls(events.most_likely)[tail].mean() > 0.5
    assert recalls(events.highest_lift).mean() > recalls(events.most_likely).mean() + 0.1
    previous = np.roll(truth, 1)
    markov = np.array([np.bincount(truth[previous == code], minlength=B).argmax() for code in range(B)])[previous]
    assert (markov == truth).mean() < 0.58
    assert recalls(markov)[tail].mean() < 0.3


def test_draws_follow_their_distribution() -> None:
    chances = np.array([0.5, 0.0, 0.25, 0.2, 0.05, 0.0])
    n = 100_000
    drawn = synth._draw_codes(np.tile(chances, (n, 1)), np.random.Generator(np.random.PCG64(1)))
    shares = np.bincount(drawn, minlength=len(chances)) / n
    assert (shares[chances == 0] == 0).all()
    assert (np.abs(shares - chances) <= 4 * np.sqrt(chances * (1 - chances) / n)).all()


def test_probability_is_that_of_the_drawn_behavior(events: synth.Events) -> None:
    hit = events.most_likely == events.behaviors
    assert hit[events.probabilities > 0.5].all()
    assert (events.probabilities >= NOISE * Tables(BEHAVIORS).share[events.behaviors] - 1e-15).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), first=st.booleans(), crowd=st.floats(0, 1))
def test_next_distribution_is_one(seed: int, first: bool, crowd: float) -> None:
    rng, tables, n = np.random.default_rng(seed), Tables(BEHAVIORS), 16
    fresh = rng.dirichlet(np.full(B, 0.3), n)
    previous = rng.integers(0, NONE + 1 if first else NONE, n)
    before = rng.integers(0, NONE + 1, n)
    active = rng.random((n, len(TAILS))) < crowd
    chances = next_distribution(State(fresh, rng.integers(0, B, n), first, previous, before, active), tables)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, atol=1e-12)
    assert (chances >= NOISE * tables.share - 1e-15).all()


# The page


def test_page_states_the_table_and_the_measurement() -> None:
    page = (ROOT / "benchmarks" / "results" / "simulator_ceiling.md").read_text(encoding="utf-8")
    for behavior in BEHAVIORS:
        assert f"| {behavior.label} | {100 * behavior.share:.3g}" in page
        if isinstance(behavior.cause, Habit):
            assert behavior.cause.trigger in page
    result = json.loads((ROOT / "benchmarks" / "results" / "simulator_ceiling.json").read_text(encoding="utf-8"))
    assert result["command"] in page
    for name, row in result["scores"].items():
        cells = " | ".join(f"{row[m]['value']:.3f}" for m in ("accuracy", "overall", "head", "medium", "tail"))
        assert f"| {name} | {cells} |" in page
