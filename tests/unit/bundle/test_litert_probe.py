"""Known rows: what is kept, what counts as the same, what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edge_behavior.bundle.litert_probe import LiteRtProbe
from edge_behavior.errors import EdgebError

IDS = list(range(100, 112))
VOCABULARY = 1000
MADE_FOR = ("gpu",)


def logits(seed: int = 0) -> np.ndarray:
    return (3 * np.random.default_rng(seed).normal(size=(len(IDS), VOCABULARY))).astype(np.float32)


def test_what_is_kept() -> None:
    rows = logits()
    probe = LiteRtProbe.measured(MADE_FOR, IDS, rows, rows)
    assert probe.ids == tuple(IDS[:8])
    assert (probe.tokens[0], probe.tokens[-1]) == (0, VOCABULARY - 1)
    assert max(np.diff(probe.tokens)) <= VOCABULARY // len(probe.tokens) + 2
    expected = rows[3].astype(np.float64) - np.log(np.exp(rows[3].astype(np.float64)).sum())
    np.testing.assert_allclose(probe.log_probs[3], expected[list(probe.tokens)], atol=1e-5)
    assert LiteRtProbe.from_dict(json.loads(json.dumps(probe.to_dict())), VOCABULARY) == probe
    assert len(json.dumps(probe.to_dict())) < 10_000


def test_a_small_vocabulary_is_kept_whole() -> None:
    rows = logits()[:, :20]
    assert LiteRtProbe.measured(MADE_FOR, IDS, rows, rows).tokens == tuple(range(20))


def test_the_tolerance_follows_quantization() -> None:
    rows, shipped = logits(), logits() + np.float32(0.1) * logits(1)
    plain, quantized = (
        LiteRtProbe.measured(MADE_FOR, IDS, rows, rows),
        LiteRtProbe.measured(MADE_FOR, IDS, rows, shipped),
    )
    assert plain.tolerance == 0.01
    assert plain.difference(rows[:8]) < 1e-4
    assert quantized.log_probs == plain.log_probs
    assert quantized.tolerance == pytest.approx(0.01 + 2 * quantized.difference(shipped[:8]), abs=1e-4)


def test_differences() -> None:
    rows = logits()
    probe = LiteRtProbe.measured(MADE_FOR, IDS, rows, rows)
    # The same for every token is no difference: probabilities are what is answered.
    assert probe.difference(rows[:8] + np.float32(5)) < 1e-4
    assert probe.difference(rows[4:8], 4) < 1e-4
    assert probe.difference(rows[:4], 4) > 1
    for start in range(0, VOCABULARY, 50):
        noisy = rows[:8].copy()
        noisy[5, start : start + 50] = logits(2)[5, start : start + 50]
        assert probe.difference(noisy) > 0.1, start
    for bad in (np.nan, np.inf):
        noisy = rows[:8].copy()
        noisy[2, 77] = bad
        assert probe.difference(noisy) == np.inf


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("accelerators", [1], r"accelerators.0. is 1, not str"),
        ("ids", [], r"ids is \[\], not tokens of the model"),
        ("ids", [1, VOCABULARY], "not tokens of the model"),
        ("tokens", [-1, 5], "not tokens of the model"),
        ("tokens", [True], r"tokens\[0\] is True, not int"),
        ("log_probs", [[-1.0]], "not a list of 8"),
        ("log_probs", [[-1.0]] * 8, "not a list of 64"),
        ("log_probs", [[0.5] * 64] * 8, "holds a number that is no log-probability"),
        ("tolerance", -1, "field 'tolerance' is -1"),
        ("tolerance", float("nan"), "field 'tolerance' is nan"),
        ("more", 1, "unknown field 'more'"),
    ],
)
def test_damage(field: str, value: Any, message: str) -> None:
    rows = logits()
    fields = json.loads(json.dumps(LiteRtProbe.measured(MADE_FOR, IDS, rows, rows).to_dict()))
    with pytest.raises(EdgebError, match=message) as error:
        LiteRtProbe.from_dict({**fields, field: value}, VOCABULARY, "m.tflite: probe.json")
    assert str(error.value).startswith("m.tflite: probe.json")
