"""Calibration: formulas against naive ones, the promise of prediction sets, and what is read from files is checked."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.calibration import (
    SUGGEST_WINDOWS,
    Calibration,
    CalibrationSet,
    conformal_threshold,
    conformity,
    prediction_sets,
    suggest_thresholds,
)
from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError

NAMES = ("head", "tail", "medium", "tail", "head")
BIAS = {"head": -0.5, "medium": 0.25, "tail": 1.0}
WHOLE = Calibration(1.5, BIAS, {0.8: 0.2, 0.9: 0.05}, {0.5: 0.3, 0.95: None})
calibrations = st.builds(
    Calibration,
    st.floats(0.1, 9),
    st.fixed_dictionaries({name: st.floats(-9, 9) for name in GROUPS}),
    st.dictionaries(st.sampled_from([0.5, 0.8, 0.95]), st.floats(0, 1)),
    st.dictionaries(st.sampled_from([0.5, 0.8, 0.95]), st.none() | st.floats(0, 1)),
)


def windows(n: int, size: int, seed: int, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities [n, size], and truths drawn from them."""
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(rng.normal(0, spread, (n, size)))
    truth = (np.exp(log_probs).cumsum(1) < rng.random((n, 1))).sum(1)
    return log_probs, np.minimum(truth, size - 1)


class TestScores:
    @given(calibrations, st.integers(0, 1000))
    def test_the_formula(self, calibration, seed):
        scores = np.random.default_rng(seed).normal(0, 5, (3, 5))
        found = calibration.scores(scores, NAMES)
        for i in range(3):
            for b, name in enumerate(NAMES):
                assert found[i, b] == pytest.approx(scores[i, b] / calibration.temperature + calibration.bias[name])

    def test_the_default_changes_nothing(self):
        scores = np.random.default_rng(0).normal(0, 5, (3, 5))
        np.testing.assert_array_equal(Calibration().scores(scores, NAMES), scores)

    def test_levels(self):
        assert WHOLE.set_threshold(0.9) == 0.05
        assert WHOLE.suggest_threshold(0.5) == 0.3
        assert WHOLE.suggest_threshold(0.95) is None
        with pytest.raises(EdgebError, match=r"not calibrated for a coverage of 0\.85") as caught:
            WHOLE.set_threshold(0.85)
        assert caught.value.hint == "its levels: 0.8, 0.9"
        with pytest.raises(EdgebError, match=r"not calibrated for a precision of 0\.9"):
            WHOLE.suggest_threshold(0.9)


class TestPredictionSets:
    @given(
        st.lists(st.sampled_from([0.0, 0.1, 0.1000001, 0.5, 1.0]) | st.floats(0, 1), min_size=2, max_size=60),
        st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]),
    )
    def test_the_promise(self, scores, coverage):
        """Whichever of n + 1 exchangeable scores is the new one: on average it is inside, ties or not."""
        scores = np.array(scores)
        inside = [scores[i] >= conformal_threshold(np.delete(scores, i), coverage) for i in range(len(scores))]
        assert np.mean(inside) >= coverage - 1e-9

    @given(st.integers(1, 80), st.sampled_from([0.5, 0.8, 0.9, 0.95]), st.integers(0, 99))
    def test_no_more_than_promised_without_ties(self, n, coverage, seed):
        scores = np.random.default_rng(seed).random(n + 1)
        inside = [scores[i] >= conformal_threshold(np.delete(scores, i), coverage) for i in range(n + 1)]
        assert np.mean(inside) <= coverage + 1 / (n + 1) + 1e-9

    @given(st.integers(1, 300), st.sampled_from([0.8, 0.9, 0.95]), st.integers(0, 9))
    def test_it_is_the_finite_sample_quantile(self, n, coverage, seed):
        scores = np.random.default_rng(seed).random(n)
        rank = -(-(n + 1) * round(100 * coverage) // 100)  # rounded up, in whole numbers
        expected = 0.0 if rank > n else 1 - np.sort(1 - scores)[rank - 1]
        assert conformal_threshold(scores, coverage) == pytest.approx(expected, abs=1e-12)

    def test_too_few_promise_nothing(self):
        assert conformal_threshold([0.7] * 18, 0.95) == 0
        assert conformal_threshold([0.7] * 19, 0.95) == 0.7
        assert conformal_threshold([], 0.5) == 0

    @settings(deadline=None)
    @given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 99))
    def test_a_truth_is_inside_where_it_conforms(self, n, least, seed):
        log_probs, truth = windows(n, 5, seed)
        probs = np.exp(log_probs)
        members = prediction_sets(probs, least)
        assert members.any(1).all()
        assert members[np.arange(n), probs.argmax(1)].all()
        np.testing.assert_array_equal(members[np.arange(n), truth], conformity(probs, truth) >= least)
        np.testing.assert_array_equal(prediction_sets(probs, np.full(n, least)), members)

    def test_equal_candidates_go_together(self):
        assert prediction_sets(np.array([[0.4, 0.3, 0.3]]), 0.3).tolist() == [[True, True, True]]
        assert prediction_sets(np.array([[0.4, 0.3, 0.3]]), 0.31).tolist() == [[True, False, False]]

    def test_new_windows_are_covered(self):
        held, truth = windows(4000, 8, 1)
        new, answers = windows(4000, 8, 2)
        for coverage in (0.8, 0.9, 0.95):
            least = conformal_threshold(conformity(np.exp(held), truth), coverage)
            inside = prediction_sets(np.exp(new), least)[np.arange(4000), answers]
            assert inside.mean() == pytest.approx(coverage, abs=0.02)


class TestSuggest:
    def wilson(self, hits: int, n: int) -> float:
        z, p = 1.6448536269514722, hits / n
        middle = p + z * z / (2 * n)
        return (middle - z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)

    @settings(deadline=None)
    @given(st.integers(0, 80), st.integers(0, 999), st.sampled_from([0.3, 0.5, 0.7]))
    def test_the_least_threshold_whose_bound_reaches_it(self, n, seed, wanted):
        """With a user per window the bound is Wilson's."""
        rng = np.random.default_rng(seed)
        confidence = rng.choice(np.linspace(0.1, 1, 12), n)
        right = rng.random(n) < confidence
        found = suggest_thresholds(confidence, right, np.arange(n), [wanted])[wanted]
        expected = None
        for t in sorted(set(confidence.tolist())):
            spoken = confidence >= t
            if spoken.sum() >= SUGGEST_WINDOWS and self.wilson(int(right[spoken].sum()), int(spoken.sum())) >= wanted:
                expected = t
                break
        assert found == expected

    def test_delivers(self):
        log_probs, truth = windows(6000, 6, 3)
        probs = np.exp(log_probs)
        right = probs.argmax(1) == truth
        users = np.arange(6000) // 20
        found = suggest_thresholds(probs[:3000].max(1), right[:3000], users[:3000])
        for wanted, least in found.items():
            assert least is not None
            spoken = probs[3000:].max(1) >= least
            assert right[3000:][spoken].mean() >= wanted - 0.02
        assert list(found.values()) == sorted(found.values())

    def test_users_who_differ_make_it_careful(self):
        """One user is always right, the others never more than half: counted by windows .7 would be safe."""
        users = np.repeat(np.arange(10), 40)
        right = (users < 7) | (np.arange(400) % 2 == 0)
        confidence = np.full(400, 0.9)
        alone = suggest_thresholds(confidence, right, np.arange(400), [0.8])[0.8]
        together = suggest_thresholds(confidence, right, users, [0.8])[0.8]
        assert alone == 0.9
        assert together is None

    def test_a_few_users_say_nothing(self):
        right, confidence = np.ones(200, dtype=bool), np.full(200, 0.9)
        assert suggest_thresholds(confidence, right, np.arange(200) % 4, [0.5]) == {0.5: None}
        assert suggest_thresholds(confidence, right, np.arange(200) % 5, [0.5]) == {0.5: 0.9}
        assert suggest_thresholds(confidence[:19], right[:19], np.arange(19), [0.5]) == {0.5: None}


class TestFiles:
    @given(calibrations)
    def test_round_trip(self, calibration):
        assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (("temperature",), 0, "m.gguf: calibration's 'temperature' is 0"),
            (("temperature",), -1.5, "'temperature' is -1.5"),
            (("temperature",), True, "'temperature' is True"),
            (("temperature",), "1", "'temperature' is 1"),
            (("temperature",), math.nan, "'temperature' is nan"),
            (("temperature",), 10**400, "'temperature' is 1000"),
            (("bias",), None, r"m\.gguf\.bias is not an object but NoneType"),
            (("bias", "tail"), math.inf, r"'bias\.tail' is inf"),
            (("bias", "tail"), None, r"'bias\.tail' is None"),
            (("bias", "neck"), 0.0, r"m\.gguf\.bias: unknown field 'neck'"),
            (("coverage",), [], r"m\.gguf\.coverage is not an object but list"),
            (("coverage", "0.9"), None, r"'coverage\.0\.9' is None"),
            (("coverage", "0.9"), 1.5, r"'coverage\.0\.9' is 1\.5"),
            (("coverage", "much"), 0.5, r"m\.gguf\.coverage: the level 'much' is not a number"),
            (("coverage", "1.5"), 0.5, r"'coverage' has the level 1\.5"),
            (("coverage", "nan"), 0.5, "'coverage' has the level nan"),
            (("precision", "0.5"), "x", r"'precision\.0\.5' is x"),
            (("precision", "0.5"), -0.1, r"'precision\.0\.5' is -0\.1"),
            (("precision", "0"), 0.1, "'precision' has the level 0"),
            (("more",), 1, "m.gguf: unknown field 'more'"),
        ],
    )
    def test_bad_values(self, path, value, message):
        held: Any = json.loads(json.dumps(WHOLE.to_dict()))
        inner = held
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        with pytest.raises(EdgebError, match=message):
            Calibration.from_dict(held, "m.gguf")

    @pytest.mark.parametrize("name", ["temperature", "bias", "coverage", "precision"])
    def test_a_missing_field(self, name):
        held = WHOLE.to_dict()
        del held[name]
        with pytest.raises(EdgebError, match=f"field '{name}' is missing"):
            Calibration.from_dict(held)

    def test_the_sources_of_a_bundle(self):
        held = {"model": WHOLE.to_dict(), "habits": Calibration().to_dict(), "measured": {}}
        found = CalibrationSet.from_dict(held, ["model", "habits"])
        assert found == CalibrationSet({"model": WHOLE, "habits": Calibration()})
        assert found.to_dict() == held
        with pytest.raises(EdgebError, match="field 'fused' is missing"):
            CalibrationSet.from_dict(held, ["model", "habits", "fused"])
        with pytest.raises(EdgebError, match="unknown field 'habits'"):
            CalibrationSet.from_dict(held, ["model"])
        with pytest.raises(EdgebError, match="field 'measured' is 1, not an object"):
            CalibrationSet.from_dict({**held, "measured": 1}, ["model", "habits"])
        with pytest.raises(EdgebError, match=r"m\.model is not an object"):
            CalibrationSet.from_dict({**held, "model": 1}, ["model", "habits"], "m")
