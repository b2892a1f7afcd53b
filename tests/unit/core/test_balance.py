"""The balance dial's offsets against the habits' own prior, and strict reading of what a bundle was fitted."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_behavior.core.balance import MOST, FittedBalance, balance_offsets, check_balance, parse_balance
from edge_behavior.core.calibration import Calibration, CalibrationSet
from edge_behavior.core.habits import HabitCounter
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError

counts = st.lists(st.integers(0, 10**7), min_size=2, max_size=40).filter(any)
balances = st.floats(0, MOST)
SOURCES = ("model", "habits", "fused")
HELD = FittedBalance(
    {"model": 0.25, "habits": 0.0, "fused": 1.5},
    CalibrationSet({name: Calibration(1.5, coverage={0.8: 0.2}) for name in SOURCES}),
    {"windows": 7},
)


class TestOffsets:
    @given(counts, balances)
    def test_shares_are_those_of_a_user_without_habits(self, counted, balance):
        prior = HabitCounter(counted).log_probs(datetime(2024, 3, 18), "home")
        found = balance_offsets(balance, counted)
        np.testing.assert_allclose(found, -balance * prior, rtol=1e-12, atol=1e-12)
        assert np.isfinite(found).all()

    @given(counts, balances)
    def test_rare_candidates_are_raised_more(self, counted, balance):
        found = balance_offsets(balance, counted)
        order = np.argsort(counted, kind="stable")
        assert (np.diff(found[order]) <= 1e-12).all()

    @given(counts)
    def test_zero_changes_no_bit(self, counted):
        scores = np.random.default_rng(len(counted)).normal(0, 9, len(counted))
        assert (scores + balance_offsets(0, counted)).tobytes() == scores.tobytes()

    @given(counts)
    def test_one_divides_the_shares_out(self, counted):
        """A source that says the training shares whatever happens is even at τ = 1."""
        prior = HabitCounter(counted).log_probs(datetime(2024, 3, 18), "home")
        np.testing.assert_allclose(log_softmax(prior + balance_offsets(1.0, counted)), -np.log(len(counted)))

    def test_without_counts_there_is_nothing_to_balance_by(self):
        assert balance_offsets(0.0, [0, 0, 0]).tolist() == [0, 0, 0]
        with pytest.raises(EdgebError, match=r"balance is 0\.25, but the training counts are unknown"):
            balance_offsets(0.25, [0, 0, 0])


class TestValues:
    @pytest.mark.parametrize("value", [0, 0.25, 2, 2.0, np.float32(0.5), np.int64(1)])
    def test_good_ones(self, value):
        found = check_balance(value)
        assert type(found) is float
        assert found == value
        assert check_balance("fitted") == "fitted"

    @pytest.mark.parametrize("value", [-0.1, 2.01, np.nan, np.inf, True, None, "0.5", "fit", [0.5], np.array([1.0])])
    def test_bad_ones(self, value):
        with pytest.raises(EdgebError, match="balance is ") as caught:
            check_balance(value)
        assert caught.value.hint == "pass a number from 0 (right most often) to 2, or 'fitted'"
        assert "\n" not in caught.value.message

    def test_of_a_command_line(self):
        assert parse_balance("0.25") == 0.25
        assert parse_balance("fitted") == "fitted"
        for text in ("", "much", "nan", "-1", "3", "inf"):
            with pytest.raises(EdgebError, match="--balance is "):
                parse_balance(text)


class TestFiles:
    def test_round_trip(self):
        assert FittedBalance.from_dict(json.loads(json.dumps(HELD.to_dict())), SOURCES) == HELD
        bare = FittedBalance(HELD.fitted)
        assert FittedBalance.from_dict(json.loads(json.dumps(bare.to_dict())), SOURCES) == bare

    def test_the_fitted_one_is_known_by_its_value(self):
        assert HELD.is_fitted("model", 0.1 + 0.15)
        assert not HELD.is_fitted("fused", 0.25)

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (("fitted",), 0.25, r"m\.gguf: field 'fitted' is 0\.25, not an object"),
            (("fitted", "model"), 2.5, r"m\.gguf\.fitted: 'model' is 2\.5"),
            (("fitted", "model"), -0.1, r"'model' is -0\.1"),
            (("fitted", "model"), True, "'model' is True"),
            (("fitted", "model"), None, "'model' is None"),
            (("fitted", "stars"), 0.5, r"m\.gguf\.fitted: unknown field 'stars'"),
            (("calibration",), [], r"field 'calibration' is \[\], not an object or null"),
            (("calibration", "model"), 1, r"m\.gguf\.calibration\.model is not an object"),
            (("calibration", "model", "temperature"), 0, r"m\.gguf\.calibration\.model: .*'temperature' is 0"),
            (("measured",), None, "field 'measured' is None"),
            (("more",), 1, r"m\.gguf: unknown field 'more'"),
        ],
    )
    def test_bad_values(self, path, value, message):
        held: Any = json.loads(json.dumps(HELD.to_dict()))
        inner = held
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        with pytest.raises(EdgebError, match=message):
            FittedBalance.from_dict(held, SOURCES, "m.gguf")

    def test_the_sources_of_a_bundle(self):
        with pytest.raises(EdgebError, match="unknown field 'fused'"):
            FittedBalance.from_dict(HELD.to_dict(), SOURCES[:2])
        short = {**HELD.to_dict(), "fitted": {"model": 0.0, "habits": 0.0}}
        with pytest.raises(EdgebError, match="field 'fused' is missing"):
            FittedBalance.from_dict(short, SOURCES)
