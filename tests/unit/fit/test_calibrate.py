"""Calibration fitted on held-out users: known distortions come back, honest numbers, nothing from too little."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edge_behavior.core.calibration import COVERAGES, PRECISIONS, Calibration, CalibrationSet
from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fusion import SOURCES, Fusion
from edge_behavior.core.scoring import log_softmax
from edge_behavior.fit import calibrate
from edge_behavior.fit.calibrate import TooFewToCalibrateError, choose_way, fit_calibration, fit_scores
from edge_behavior.fit.mixture import HeldOut, fit_weights, unit_folds

NAMES = ("head", "head", "medium", "medium", "medium", "tail", "tail", "tail", "tail")


def synthetic(
    n: int = 1200,
    temperature: float = 1.0,
    bias: tuple[float, float, float] = (0, 0, 0),
    seed: int = 0,
    users: int = 30,
) -> HeldOut:
    """Truths drawn from the habits' distribution; the model's is that, distorted so that this calibration undoes it."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (n, len(NAMES)))
    offsets = np.array([dict(zip(GROUPS, bias, strict=True))[name] for name in NAMES])
    truth = (np.exp(log_softmax(scores)).cumsum(1) < rng.random((n, 1))).sum(1)
    # Not normalized over the candidates, as the model's are not.
    model = temperature * (scores - offsets) - 7 - rng.exponential(1, (n, 1))
    return HeldOut(model, log_softmax(scores), truth, np.arange(n) % users, NAMES)


def nll(scores: np.ndarray, truth: np.ndarray) -> float:
    return float(-log_softmax(scores)[np.arange(len(truth)), truth].mean())


class TestFit:
    @pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
    def test_a_known_temperature_comes_back(self, temperature):
        held = synthetic(20_000, temperature)
        found = fit_scores(held.model, held.truth, NAMES, biased=False)
        assert found.temperature == pytest.approx(temperature, rel=0.03)
        assert set(found.bias.values()) == {0.0}

    def test_known_biases_come_back(self, monkeypatch):
        monkeypatch.setattr(calibrate, "L2", 0.0)
        held = synthetic(20_000, 1.6, (-0.8, 0.1, 0.7))
        found = fit_scores(held.model, held.truth, NAMES, biased=True)
        assert found.temperature == pytest.approx(1.6, rel=0.04)
        assert [found.bias[name] for name in GROUPS] == pytest.approx([-0.8, 0.1, 0.7], abs=0.08)

    def test_the_optimum_is_one(self):
        held = synthetic(500, 2.0, (0.5, 0.0, -0.5))
        found = fit_scores(held.model, held.truth, NAMES, biased=True)

        def objective(sharpness: float, bias: dict[str, float]) -> float:
            scores = sharpness * held.model + np.array([bias[name] for name in NAMES])
            return nll(scores, held.truth) + calibrate.L2 * sum(b * b for b in bias.values())

        # The pull takes the mean of the biases to 0, so that centering them changes nothing.
        best = objective(1 / found.temperature, dict(found.bias))
        for step in (-0.02, 0.02):
            assert objective(1 / found.temperature + step, dict(found.bias)) > best
            for name in GROUPS:
                assert objective(1 / found.temperature, {**found.bias, name: found.bias[name] + step}) > best

    def test_a_group_without_candidates(self):
        held = synthetic(300)
        found = fit_scores(held.model, held.truth, ("medium",) * 5 + ("tail",) * 4, biased=True)
        assert found.bias["head"] == 0
        assert found.bias["medium"] == pytest.approx(-found.bias["tail"])

    def test_a_source_that_is_always_right_stays_finite(self):
        held = synthetic(200)
        sure = np.where(np.arange(9) == held.truth[:, None], -0.1, -5.0)
        assert fit_scores(sure, held.truth, NAMES, biased=False).temperature >= 1 / 20
        assert fit_scores(-sure, held.truth, NAMES, biased=True).temperature <= 20.01


class TestChoice:
    USERS = np.arange(600) % 20

    def chosen(self, held: HeldOut, calibrations: dict[str, Calibration]) -> str:
        log_probs = {way: log_softmax(c.scores(held.model, NAMES)) for way, c in calibrations.items()}
        tail = np.array(NAMES)[held.truth] == "tail"
        return choose_way(log_probs, held.truth, held.users, tail)[0]

    def test_raw_where_nothing_is_gained(self):
        held = synthetic(600)
        same = Calibration()
        assert self.chosen(held, {"raw": same, "temperature": same, "bias": same}) == "raw"
        assert self.chosen(held, {"raw": same, "temperature": Calibration(2.0), "bias": Calibration(3.0)}) == "raw"

    def test_the_temperature(self):
        held = synthetic(600, 2.5)
        assert self.chosen(held, {"raw": Calibration(), "temperature": Calibration(2.5), "bias": Calibration(2.5)}) == (
            "temperature"
        )

    def test_the_biases_where_they_help_the_tail(self):
        bias = dict(zip(GROUPS, (-1.0, 0.0, 1.0), strict=True))
        held = synthetic(600, 1.0, (-1.0, 0.0, 1.0))
        ways = {"raw": Calibration(), "temperature": Calibration(), "bias": Calibration(1.0, bias)}
        assert self.chosen(held, ways) == "bias"

    def test_not_where_they_cost_the_tail(self):
        """The loss of all windows falls, that of tail truths rises."""
        bias = dict(zip(GROUPS, (1.0, 0.0, -1.0), strict=True))
        held = synthetic(600, 1.0, (1.0, 0.0, -1.0))
        ways = {"raw": Calibration(), "temperature": Calibration(), "bias": Calibration(1.0, bias)}
        assert nll(ways["bias"].scores(held.model, NAMES), held.truth) < nll(held.model, held.truth)
        assert self.chosen(held, ways) == "raw"

    def test_not_from_a_few_tail_windows(self):
        bias = dict(zip(GROUPS, (-1.0, 0.0, 1.0), strict=True))
        held = synthetic(600, 1.0, (-1.0, 0.0, 1.0))
        tail = np.flatnonzero(np.array(NAMES)[held.truth] == "tail")
        keep = np.ones(600, dtype=bool)
        keep[tail[19:]] = False
        ways = {"raw": Calibration(), "temperature": Calibration(), "bias": Calibration(1.0, bias)}
        assert self.chosen(held.take(keep), ways) != "bias"


class TestCalibration:
    def test_what_a_manifest_gets(self):
        held = synthetic(1200, 2.5)
        found = json.loads(json.dumps(fit_calibration(held).to_dict(), allow_nan=False))
        assert set(found) == {*SOURCES, "measured"}
        read = CalibrationSet.from_dict(found, SOURCES).sources
        measured = found["measured"]
        assert {name: measured[name] for name in ("split", "windows", "users", "folds")} == {
            **{"split": "validation", "windows": 1200, "users": 30, "folds": 5},
        }
        assert (measured["model"]["way"], measured["habits"]["way"]) == ("temperature", "raw")
        assert read["model"].temperature == pytest.approx(2.5, rel=0.1)
        assert read["habits"] == replace(read["habits"], temperature=1.0, bias=dict.fromkeys(GROUPS, 0.0))
        assert measured["model"]["ece"]["after"] < 0.05 < measured["model"]["ece"]["before"]
        for source in SOURCES:
            assert list(read[source].coverage) == list(COVERAGES)
            assert list(read[source].precision) == list(PRECISIONS)
            for level in COVERAGES:
                assert measured[source]["coverage"][f"{level:g}"]["overall"] == pytest.approx(level, abs=0.03)
            sizes = [measured[source]["coverage"][f"{level:g}"]["size"] for level in COVERAGES]
            assert sizes == sorted(sizes)
            assert measured[source]["windows"] == 1200

    def test_thresholds_hold_on_new_users(self):
        found = fit_calibration(synthetic(1500, 2.5)).sources["model"].calibration
        new = synthetic(6000, 2.5, seed=9)
        probs = np.exp(log_softmax(found.scores(new.model, NAMES)))
        own, right = probs[np.arange(6000), new.truth], probs.argmax(1) == new.truth
        for level, least in found.coverage.items():
            assert ((own >= least) | right).mean() == pytest.approx(level, abs=0.03)
        for level, threshold in found.precision.items():
            assert threshold is not None
            assert right[probs.max(1) >= threshold].mean() >= level - 0.02

    def test_biases_that_help_the_tail_are_in_it(self):
        found = fit_calibration(synthetic(1500, 1.0, (-1.0, 0.0, 1.0)), fused=False).sources["model"]
        assert found.way == "bias"
        assert found.calibration.bias["head"] < -0.5 < 0.5 < found.calibration.bias["tail"]
        assert found.measured.tail_nll.after < found.measured.tail_nll.before

    def test_without_fusion(self):
        found = fit_calibration(synthetic(300), fused=False).to_dict()
        assert set(found) == {"model", "habits", "measured"}
        CalibrationSet.from_dict(found, ("model", "habits"))

    def test_the_same_every_time(self):
        assert fit_calibration(synthetic(300)) == fit_calibration(synthetic(300))

    def test_folds_are_left_out_whole(self, monkeypatch):
        """Every fit is of whole folds: all of them, all but one, all but two."""
        held = synthetic(400, users=10)
        fused: list[frozenset[int]] = []
        fitted: list[frozenset[int]] = []
        code = {held.model[i].tobytes(): int(user) for i, user in enumerate(held.users)}

        def weights(part: HeldOut, l2: float = 0.01) -> Fusion:
            fused.append(frozenset(part.users.tolist()))
            return fit_weights(part, l2)

        def scores(rows, truth, groups, biased):
            if len(rows) and rows[0].tobytes() in code:
                fitted.append(frozenset(code[row.tobytes()] for row in rows))
            return fit_scores(rows, truth, groups, biased)

        monkeypatch.setattr(calibrate, "fit_weights", weights)
        monkeypatch.setattr(calibrate, "fit_scores", scores)
        found = fit_calibration(held)
        everyone = frozenset(range(10))
        sizes = sorted(len(everyone - users) for users in set(fused))
        # All users, all without one of five folds, all without two of them; two users each.
        assert sizes == [0] + [2] * 5 + [4] * 10
        assert sorted(len(everyone - users) for users in set(fitted)) == sizes
        assert found.folds == 5

    def test_measured_on_users_the_thresholds_do_not_know(self):
        """In one fold the truth is always the last candidate, elsewhere always the first: who knows the fold lets
        everything in and covers it, who does not covers none of it."""
        held = synthetic(800, users=40)
        fold, _ = unit_folds(held.units)
        truth = np.where(fold == 0, held.model.argmin(1), held.model.argmax(1))
        found = fit_calibration(replace(held, truth=truth), fused=False).sources["model"].measured
        assert found.coverage["0.9"].overall == pytest.approx(0.8)

    @pytest.mark.parametrize(("n", "users"), [(99, 12), (500, 9)])
    def test_too_few(self, n, users):
        with pytest.raises(
            TooFewToCalibrateError, match=f"{n} validation windows of {users} users are too few"
        ) as caught:
            fit_calibration(synthetic(n, users=users))
        assert "--no-calibrate" in caught.value.hint
