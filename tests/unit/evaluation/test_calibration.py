"""Calibration error against a naive one, and what calibration does on windows by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.calibration import (
    BeforeAfter,
    CalibrationMetrics,
    Coverage,
    Suggestions,
    expected_calibration_error,
    measure_calibration,
)


def windows(n: int, size: int, seed: int, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities [n, size], and truths drawn from them."""
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(rng.normal(0, spread, (n, size)))
    truth = (np.exp(log_probs).cumsum(1) < rng.random((n, 1))).sum(1)
    return log_probs, np.minimum(truth, size - 1)


class TestError:
    @settings(deadline=None)
    @given(st.integers(1, 60), st.integers(2, 5), st.integers(1, 20), st.integers(0, 999))
    def test_against_a_naive_one(self, n, size, bins, seed):
        log_probs, truth = windows(n, size, seed)
        rows = sorted(((math.exp(max(row)), i) for i, row in enumerate(log_probs.tolist())), key=lambda r: r[0])
        bins_used, total, at = min(bins, n), 0.0, 0
        for k in range(bins_used):
            # The first n % bins parts hold one more.
            part = rows[at : at + n // bins_used + (k < n % bins_used)]
            at += len(part)
            accuracy = sum(int(np.argmax(log_probs[i])) == truth[i] for _, i in part) / len(part)
            confidence = sum(c for c, _ in part) / len(part)
            total += len(part) / n * abs(accuracy - confidence)
        assert at == n
        assert expected_calibration_error(log_probs, truth, bins) == pytest.approx(total)

    def test_by_hand(self):
        log_probs = np.log([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9]])
        truth = np.array([1, 0, 1, 1])
        # Two bins: {.6 wrong, .7 right} and {.8 right, .9 right}.
        assert expected_calibration_error(log_probs, truth, 2) == pytest.approx((0.15 + 0.15) / 2)
        assert expected_calibration_error(log_probs, truth, 1) == pytest.approx(0.0)

    def test_small_where_truths_follow_the_probabilities(self):
        log_probs, truth = windows(20_000, 6, 0)
        sharper = log_softmax(3 * log_probs)
        assert expected_calibration_error(log_probs, truth) < 0.02
        assert expected_calibration_error(sharper, truth) > 0.1

    def test_no_windows(self):
        with pytest.raises(ValueError, match="no windows"):
            expected_calibration_error(np.empty((0, 3)), np.empty(0, dtype=np.int64))


class TestMeasure:
    def test_by_hand(self):
        before = np.log([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]])
        truth = np.array([0, 2, 1, 2])
        found = measure_calibration(
            before, before, truth, ("head", "medium", "tail"), {0.8: 0.35}, {0.5: 0.6, 0.9: None}
        )
        assert found.windows == 4
        assert found.accuracy == BeforeAfter(0.5, 0.5)
        assert found.tail_nll.after == pytest.approx(-(math.log(0.3) + math.log(0.7)) / 2)
        # Sets: {0}, {1}, {0, 1}, {2}; the second lacks its truth.
        assert found.coverage == {"0.8": Coverage(overall=0.75, head=1.0, medium=1.0, tail=0.5, size=1.25)}
        assert found.precision["0.5"] == Suggestions(share=0.5, suggested=2, precision=1.0)
        assert found.precision["0.9"] == Suggestions(share=0.0, suggested=0, precision=None)
        assert CalibrationMetrics.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found

    def test_thresholds_may_differ_between_windows(self):
        log_probs, truth = windows(6, 3, 0)
        never = np.full(6, np.inf)
        never[2] = 0.0
        found = measure_calibration(log_probs, log_probs, truth, GROUPS, {0.9: np.linspace(0, 1, 6)}, {0.5: never})
        assert found.precision["0.5"].suggested == 1
        assert 1 < found.coverage["0.9"].size < 3

    def test_a_group_that_is_never_the_truth(self):
        log_probs, _ = windows(6, 3, 0)
        found = measure_calibration(log_probs, log_probs, np.zeros(6, dtype=np.int64), GROUPS, {0.9: 0.1}, {})
        assert found.coverage["0.9"].tail is None
        assert found.tail_nll == BeforeAfter(None, None)

    def test_what_a_file_says_is_checked(self):
        log_probs, truth = windows(6, 3, 0)
        held = measure_calibration(log_probs, log_probs, truth, GROUPS, {0.9: 0.1}, {0.5: 0.2}).to_dict()
        with pytest.raises(EdgebError, match=r"b\.gguf: field 'ece' is missing"):
            CalibrationMetrics.from_dict({k: v for k, v in held.items() if k != "ece"}, "b.gguf")
        with pytest.raises(EdgebError, match=r"b\.gguf\.nll: unknown field 'later'"):
            CalibrationMetrics.from_dict({**held, "nll": {**held["nll"], "later": 1}}, "b.gguf")
