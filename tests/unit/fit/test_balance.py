"""The fitted balance: a known prior comes back, the curve is that of the metrics, and nothing odd comes of noise."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_behavior.core.balance import FittedBalance, balance_offsets
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.fusion import SOURCES
from edge_behavior.core.scoring import log_softmax
from edge_behavior.evaluation.metrics import Outcome, behavior_metrics
from edge_behavior.fit.balance import GRID, NoCountsError, fit_balance
from edge_behavior.fit.calibrate import fit_calibration
from edge_behavior.fit.mixture import HeldOut, left_out_scores, unit_folds

COUNTS = (6000, 2500, 900, 300, 150, 80, 50, 20, 0)
CANDIDATES = CandidateSet.of([f"label {i}" for i in range(len(COUNTS))], COUNTS)
SHARES = np.array(COUNTS) / sum(COUNTS)


def synthetic(n: int = 3000, strength: float = 1.0, seed: int = 0, users: int = 40) -> HeldOut:
    """Windows whose evidence has the truth as its mean; scores are log-likelihoods plus `strength` times the prior.

    By Bayes' rule the first candidate is right most often where the prior counts once, and finds most behaviors where
    it does not count.
    """
    rng = np.random.default_rng(seed)
    size = len(COUNTS)
    truth = rng.choice(size, n, p=SHARES)
    evidence = rng.normal(0, 1, (n, size)) + 2.0 * np.eye(size)[truth]
    prior = -balance_offsets(1.0, COUNTS)
    # Twice the mean times the evidence is the log-likelihood ratio of a unit normal.
    model = log_softmax(2.0 * evidence + strength * prior) - 5
    habits = log_softmax(rng.normal(0, 1, (n, size)) + prior)
    return HeldOut(model, habits, truth, rng.integers(0, users, n), CANDIDATES.groups())


def chosen_by_hand(held: HeldOut) -> float:
    """The rule, window by window: the first τ that the best does not beat by more than a standard error over users."""
    share = {b: 1 / (held.truth == b).sum() / len(set(held.truth.tolist())) for b in set(held.truth.tolist())}
    worth = {}
    for balance in GRID:
        predicted = (held.model + balance_offsets(balance, COUNTS)).argmax(1)
        worth[balance] = [share[b] * (p == b) for p, b in zip(predicted.tolist(), held.truth.tolist(), strict=True)]
    best = max(worth, key=lambda balance: sum(worth[balance]))
    for balance in GRID:
        gains = dict.fromkeys(held.users.tolist(), 0.0)
        for user, mine, other in zip(held.users.tolist(), worth[best], worth[balance], strict=True):
            gains[user] += mine - other
        mean = sum(gains.values()) / len(gains)
        if sum(gains.values()) <= sum((g - mean) ** 2 for g in gains.values()) ** 0.5 + 1e-12:
            return balance
    raise AssertionError


class TestFit:
    def test_a_prior_that_counts_once_is_divided_out(self):
        found = fit_balance(synthetic(40_000), COUNTS).sources["model"]
        overall = {balance: recalls.overall for balance, recalls in found.curve.items()}
        best = max(overall, key=overall.__getitem__)
        assert best == pytest.approx(1.0, abs=0.25)
        assert 0.5 < found.fitted <= best
        assert overall[best] - overall[found.fitted] < 0.02
        assert found.cross_validated.overall > overall[0.0] + 0.1
        accuracy = {balance: recalls.accuracy for balance, recalls in found.curve.items()}
        assert max(accuracy, key=accuracy.__getitem__) <= 0.1, "right most often is without"

    def test_where_no_prior_is_left_it_stays_at_zero(self):
        found = fit_balance(synthetic(40_000, strength=0.0), COUNTS).sources["model"]
        assert found.fitted <= 0.1

    @pytest.mark.parametrize("seed", range(4))
    def test_a_choice_that_gains_nothing_elsewhere_is_not_made(self, seed):
        """Scores that know nothing of the truth: what is best on some users is so by chance."""
        rng = np.random.default_rng(seed)
        noise = log_softmax(rng.normal(0, 1, (300, len(COUNTS))))
        held = HeldOut(noise, noise, rng.choice(len(COUNTS), 300, p=SHARES), np.arange(300) % 12, CANDIDATES.groups())
        for found in fit_balance(held, COUNTS).sources.values():
            gains = found.cross_validated.overall > found.curve[0.0].overall
            assert gains or found.fitted == 0

    @pytest.mark.parametrize("source", SOURCES)
    def test_the_curve_is_that_of_the_metrics(self, source):
        held = synthetic(400)
        scores = left_out_scores(held)[source]
        curve = fit_balance(held, COUNTS).sources[source].curve
        assert tuple(curve) == GRID
        assert GRID[0] == 0
        for balance, recalls in curve.items():
            outcome = Outcome(scores + balance_offsets(balance, COUNTS), held.truth, held.users)
            expected = behavior_metrics(outcome, CANDIDATES.labels, held.groups, resamples=0)
            assert recalls.accuracy == pytest.approx(expected.weighted_recall)
            for name in ("overall", "head", "medium", "tail"):
                assert getattr(recalls, name) == pytest.approx(expected.value(name)), (balance, name)

    def test_each_fold_is_measured_by_the_others(self):
        held = synthetic(600, seed=3)
        found = fit_balance(held, COUNTS, seed=7).sources["model"]
        fold, folds = unit_folds(held.units, 7)
        predicted = np.empty(len(held), dtype=np.int64)
        for k in range(folds):
            balance = chosen_by_hand(held.take(fold != k))
            predicted[fold == k] = (held.model[fold == k] + balance_offsets(balance, COUNTS)).argmax(1)
        right = predicted == held.truth
        recall = np.mean([right[held.truth == b].mean() for b in np.unique(held.truth)])
        assert found.cross_validated.overall == pytest.approx(recall)
        assert found.cross_validated.accuracy == pytest.approx(right.mean())

    def test_windows_of_one_group_alone(self):
        held = synthetic(300)
        held = held.take(np.array(held.groups)[held.truth] == "head")
        recalls = fit_balance(held, COUNTS).sources["model"].curve[0.0]
        assert (recalls.medium, recalls.tail) == (None, None)
        assert recalls.head == recalls.overall

    def test_without_counts(self):
        with pytest.raises(NoCountsError, match="the training counts are unknown"):
            fit_balance(synthetic(200), (0,) * len(COUNTS))


class TestManifest:
    def test_what_it_gets(self):
        held = synthetic(400)
        measured = fit_balance(held, COUNTS, fused=False)
        assert set(measured.sources) == {"model", "habits"}
        found = {"fitted": measured.fitted, "calibration": None, "measured": measured.to_dict()}
        found = json.loads(json.dumps(found, allow_nan=False))
        read = FittedBalance.from_dict(found, ["model", "habits"])
        assert read.fitted == measured.fitted
        assert (read.measured["windows"], read.measured["users"], read.measured["folds"]) == (400, 40, 5)
        curve = read.measured["model"]["curve"]
        assert set(curve) == {"balance", "accuracy", "overall", "head", "medium", "tail"}
        assert {len(column) for column in curve.values()} == {len(GRID)}
        assert curve["accuracy"][0] == pytest.approx((held.model.argmax(1) == held.truth).mean(), abs=1e-4)


class TestCalibration:
    def test_of_balanced_scores(self):
        """The offsets are part of the scores: fitted on sums, or given apart, is one."""
        held = synthetic(1500)
        offsets = {name: balance_offsets(0.7, COUNTS) for name in SOURCES}
        apart = fit_calibration(held, fused=False, offsets=offsets).sources["model"]
        sums = HeldOut(held.model + offsets["model"], held.habits, held.truth, held.users, held.groups)
        together = fit_calibration(sums, fused=False).sources["model"]
        assert apart.calibration.temperature == pytest.approx(together.calibration.temperature)
        assert apart.measured == together.measured
        assert apart.calibration.coverage == pytest.approx(together.calibration.coverage)

    def test_fused_scores_are_balanced_after_they_are_fused(self):
        held = synthetic(600)
        offsets = {name: balance_offsets(0.5, COUNTS) for name in SOURCES}
        plain, balanced = fit_calibration(held), fit_calibration(held, offsets=offsets)
        before = log_softmax(left_out_scores(held)["fused"] + offsets["fused"])
        assert balanced.sources["fused"].measured.accuracy.before == pytest.approx(
            (before.argmax(1) == held.truth).mean()
        )
        assert plain.sources["fused"].measured.accuracy.before == pytest.approx(
            (left_out_scores(held)["fused"].argmax(1) == held.truth).mean()
        )
