"""The population's table: its distribution by hand, its file to the byte, and everything that is no such file."""

from __future__ import annotations

import json
import math
import struct
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import clean_place
from edge_behavior.core.habits import HabitCounter, HabitsConfig
from edge_behavior.core.population import LEVELS, PopulationConfig, PopulationTable, levels_used, text_hash
from edge_behavior.errors import EdgebError

LABELS = ("Video", "Bar", "Café", "買い物")
COUNTS = (900, 80, 20, 0)
B = len(LABELS)
CANDIDATES = CandidateSet(LABELS, COUNTS)
START = datetime(2024, 5, 1, 8)
MASK = (1 << 64) - 1
Context = tuple[str, int | None, tuple[str, ...], str | None]


def key_of(level: str, hour: int | None, recent: tuple[str, ...], place: str | None) -> int:
    """A context's key in plain integers, as the docs define it."""

    def fnv(text: str) -> int:
        found = 14695981039346656037
        for byte in text.encode():
            found = (found ^ byte) * 1099511628211 % (1 << 64)
        return found

    def mix(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    words = [256 * LEVELS[level].number + (255 if hour is None else hour)]
    words += [fnv(recent[-i]) if len(recent) >= i else 0 for i in (1, 2)]
    words += [0 if place is None else fnv(place)]
    key = 0
    for word in words:
        key = mix(key ^ word)
    return key


def made(
    contexts: dict[Context, dict[int, int]], config: PopulationConfig | None = None, places: bool = True
) -> PopulationTable:
    """A table of these contexts: units per code."""
    rows = sorted((key_of(*context), sorted(units.items())) for context, units in contexts.items())
    sizes = [len(units) for _, units in rows]
    flat = [entry for _, units in rows for entry in units]
    return PopulationTable(
        config or PopulationConfig(),
        CANDIDATES,
        places,
        np.array([key for key, _ in rows], dtype=np.uint64),
        np.cumsum([0, *sizes]).astype(np.int64),
        np.array([code for code, _ in flat], dtype=np.uint16),
        np.array([units for _, units in flat], dtype=np.uint16),
    )


# At 8 o'clock, in buckets of two hours.
MORNING = 4
TABLE = made(
    {
        ("place", None, (), "home"): {0: 30, 1: 10},
        ("place_hour", MORNING, (), "home"): {1: 20},
        ("last_place_hour", MORNING, ("Bar",), "home"): {2: 40},
        ("last_two", None, ("Video", "Bar"), None): {0: 8, 3: 2},
        ("last_two_place_hour", MORNING, ("Video", "Bar"), "home"): {3: 50, 1: 1},
    }
)


def mixed(p: list[float], counts: dict[int, int], k: float) -> list[float]:
    total = sum(counts.values()) + k
    return [(counts.get(b, 0) + k * q) / total for b, q in enumerate(p)]


PRIOR = [0.99 * n / 1000 + 0.01 / B for n in COUNTS]


class TestDistribution:
    def test_every_level_by_hand(self):
        c = PopulationConfig()
        place = mixed(PRIOR, {0: 150, 1: 50}, c.k_place)
        hour = mixed(place, {1: 100}, c.k_place_hour)
        last = mixed(hour, {2: 200}, c.k_last_place_hour)
        two = mixed(last, {0: 40, 3: 10}, c.k_last_two)
        all_of_them = mixed(two, {3: 250, 1: 5}, c.k_last_two_place_hour)
        for recent, when, where, expected in (
            ([], START, "home", hour),
            ([], START, "(home", hour),
            ([], START + timedelta(hours=1, minutes=59), "home", hour),
            ([], START + timedelta(hours=2), "home", place),
            ([], START, "gym", PRIOR),
            ([1], START, "home", last),
            ([2, 1], START, "home", last),
            ([0, 1], START, "home", all_of_them),
            ([3, 3, 0, 1], START, "home", all_of_them),
            ([0, 1], START, "gym", mixed(PRIOR, {0: 40, 3: 10}, c.k_last_two)),
            ([1, 0], START, "home", hour),
        ):
            assert TABLE.probs(recent, when, where) == pytest.approx(expected, rel=1e-12)
            assert TABLE.log_probs(recent, when, where) == pytest.approx(np.log(expected), rel=1e-12)

    def test_without_places_levels_keep_their_hours(self):
        assert list(levels_used(False)) == ["place_hour", "last_place_hour", "last_two", "last_two_place_hour"]
        table = made({("place_hour", MORNING, (), None): {1: 20}}, places=False)
        expected = mixed(PRIOR, {1: 100}, PopulationConfig().k_place_hour)
        for place in ("", "home", "gym"):
            assert table.probs([0], START, place) == pytest.approx(expected)

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.integers(0, B - 1), max_size=4),
        st.integers(0, 23),
        st.sampled_from(["home", "ho me", ""]),
        st.sampled_from([1e-3, 1.0, 1e9]),
    )
    def test_a_distribution_whatever_is_asked(self, recent, hour, place, k):
        strengths: dict[str, Any] = {f"k_{level}": k for level in LEVELS}
        table = made({("place", None, (), "home"): {0: 65535}}, PopulationConfig(**strengths))
        found = table.log_probs(recent, START.replace(hour=hour), place)
        assert np.isfinite(found).all()
        assert np.exp(found).sum() == pytest.approx(1)

    def test_it_cannot_be_changed(self):
        with pytest.raises(ValueError, match="read-only"):
            TABLE.units[0] = 1

    def test_published_hashes(self):
        # From the reference of FNV-1a.
        assert text_hash("") == 0xCBF29CE484222325
        assert text_hash("foobar") == 0x85944171F73967E8


class TestFile:
    def test_to_the_byte(self):
        config, key = PopulationConfig(), key_of("place", None, (), "home")
        table = made({("place", None, (), "home"): {0: 3, 2: 700}}, config)
        expected = b"EDGEBPOP" + struct.pack("<5I", 1, B, 1, 1, 2)
        expected += struct.pack("<Q2I4H", key, 0, 2, 0, 2, 3, 700)
        assert table.to_bytes() == expected

    def test_names_nobody_and_no_place(self):
        content = TABLE.to_bytes()
        assert not any(text.encode() in content for text in ("home", *LABELS))

    @pytest.mark.parametrize("table", [TABLE, made({}), made({}, places=False)])
    def test_there_and_back(self, table):
        back = PopulationTable.from_bytes(table.to_bytes(), table.config, CANDIDATES, table.places)
        assert back.to_bytes() == table.to_bytes()
        assert np.array_equal(back.probs([0, 1], START, "home"), table.probs([0, 1], START, "home"))

    def test_every_truncation_and_every_flipped_bit_is_refused_or_a_distribution(self):
        content = TABLE.to_bytes()
        for length in range(len(content)):
            with pytest.raises(EdgebError, match=r"^b\.gguf"):
                PopulationTable.from_bytes(content[:length], TABLE.config, CANDIDATES, True, "b.gguf")
        for at in range(8 * len(content)):
            damaged = bytearray(content)
            damaged[at // 8] ^= 1 << at % 8
            with suppress(EdgebError):
                table = PopulationTable.from_bytes(bytes(damaged), TABLE.config, CANDIDATES, True, "b.gguf")
                assert np.exp(table.log_probs([0, 1], START, "home")).sum() == pytest.approx(1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: b"GGUF" + c[4:], "is not a population's table"),
            (lambda c: c[:8] + struct.pack("<I", 2) + c[12:], "has version 2, this edgeb reads 1"),
            (lambda c: c[:12] + struct.pack("<I", 5) + c[16:], "is of 5 candidates with places, the bundle of 4"),
            (lambda c: c[:16] + struct.pack("<I", 0) + c[20:], "without places, the bundle of 4 with"),
            (lambda c: c[:20] + struct.pack("<I", 1 << 31) + c[24:], "bytes, not"),
            (lambda c: c + b"\0", "bytes, not"),
            (lambda c: c[:28] + c[36:44] + c[28:36] + c[44:], "contexts are not in order"),
            (lambda c: c[:28] + c[36:44] + c[36:], "contexts are not in order"),
            (lambda c: c[:68] + struct.pack("<2I", 1, 1) + c[76:], "overlap or leave gaps"),
            (lambda c: c[:68] + struct.pack("<2I", 0, 0) + c[76:], "overlap or leave gaps"),
            (lambda c: c[: -4 * 8] + struct.pack("<8H", *[9] * 8) + c[-16:], "not in order|of no candidate"),
            (lambda c: c[:-2] + b"\0\0", "a count is 0"),
        ],
    )
    def test_damage_is_named(self, change, message):
        with pytest.raises(EdgebError, match=message) as caught:
            PopulationTable.from_bytes(change(TABLE.to_bytes()), TABLE.config, CANDIDATES, True, "b.gguf")
        assert caught.value.message.startswith("b.gguf")
        assert caught.value.hint


class TestRelabeling:
    def test_the_same_labels_in_another_order(self):
        order = [2, 0, 3, 1]
        candidates = CandidateSet(tuple(LABELS[i] for i in order), tuple(COUNTS[i] for i in order))
        other = TABLE.relabeled(candidates)
        found = other.probs([order.index(0), order.index(1)], START, "home")
        assert found == pytest.approx(TABLE.probs([0, 1], START, "home")[order])
        assert other.relabeled(CANDIDATES).to_bytes() == TABLE.to_bytes()

    def test_labels_that_go_take_their_counts_along(self):
        candidates = CandidateSet(("Bar", "Video", "Nap"), (80, 900, 0))
        other = TABLE.relabeled(candidates)
        # The context whose only count was of a café is gone.
        assert other.contexts == TABLE.contexts - 1
        c = PopulationConfig()
        prior = [0.99 * n / 980 + 0.01 / 3 for n in candidates.counts]
        at_home = mixed(mixed(prior, {1: 150, 0: 50}, c.k_place), {0: 100}, c.k_place_hour)
        assert other.probs([], START, "home") == pytest.approx(at_home)


class TestBeneathHabits:
    def test_nothing_seen_of_the_user_is_the_population(self):
        counter = HabitCounter(COUNTS, population=TABLE)
        assert np.array_equal(counter.log_probs(START, "home"), np.log(TABLE.probs([], START, "home")))

    def test_the_last_two_behaviors_choose_the_context(self):
        config = HabitsConfig(half_life=0, k_all=2, k_hour=1e9, k_place=1e9, k_place_hour=1e9)
        counter = HabitCounter(COUNTS, config, population=TABLE)
        for code in (2, 0, 1):
            counter.observe(code, START, "home")
        base = TABLE.probs([0, 1], START, "home")
        assert np.exp(counter.log_probs(START, "home")) == pytest.approx((1 + 2 * base - [0, 0, 0, 1]) / 5, abs=1e-6)

    def test_a_restored_counter_knows_them(self):
        counter = HabitCounter(COUNTS, population=TABLE)
        for code in (2, 0, 1):
            counter.observe(code, START, "home")
            saved = json.loads(json.dumps(counter.to_dict()))
            again = HabitCounter.from_dict(saved, COUNTS, population=TABLE)
            assert np.array_equal(again.log_probs(START, "home"), counter.log_probs(START, "home"))

    def test_another_candidate_set(self):
        with pytest.raises(EdgebError, match="is of 4 candidates, not 2"):
            HabitCounter([1, 1], population=TABLE)


class TestConfig:
    def test_round_trip(self):
        config = PopulationConfig(min_users=7, per_user=1, hour_bucket=24, k_place=3)
        assert PopulationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("min_users", value) for value in (0, -1, True, 2.0, "5", 10**9)),
            ("per_user", 0),
            *(("hour_bucket", value) for value in (0, 5, 48, None)),
            *(("k_last_two", value) for value in (0, math.nan, math.inf, "8", True)),
        ],
    )
    def test_bad_values(self, field, value):
        with pytest.raises(EdgebError, match=f"m.gguf: population setting '{field}' is") as caught:
            PopulationConfig.from_dict({**PopulationConfig().to_dict(), field: value}, "m.gguf")
        assert caught.value.hint

    def test_unknown_and_missing_fields(self):
        with pytest.raises(EdgebError, match="unknown field 'min_user'"):
            PopulationConfig.from_dict({**PopulationConfig().to_dict(), "min_user": 3})
        with pytest.raises(EdgebError, match="field 'min_users' is missing"):
            PopulationConfig.from_dict({})


def test_places_are_compared_as_they_are_cleaned():
    table = made({("place", None, (), clean_place("work (main)")): {3: 50}})
    assert np.array_equal(table.probs([], START, " work main"), table.probs([], START, "work (main)"))
    assert not np.array_equal(table.probs([], START, "work"), table.probs([], START, "work (main)"))
