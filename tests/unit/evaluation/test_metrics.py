"""The six metrics against scikit-learn, ranks against brute force, intervals against a plain bootstrap."""

from __future__ import annotations

import json
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, log_loss, precision_score, recall_score

from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.metrics import SIX, Metrics, Outcome, behavior_metrics, expected_ranks, unit_intervals

GROUP_NAMES = ("head", "medium", "tail")
pytestmark = [
    pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true"),
    pytest.mark.filterwarnings("ignore:A single label was found"),
]


def outcome_of(
    seed: int, n: int = 60, size: int = 6, users: int = 8, skill: float = 1.0, ties: bool = False
) -> Outcome:
    """Random scores that favor the truth by `skill`; the last label never occurs."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(size - 1, n, p=rng.dirichlet(np.ones(size - 1)))
    scores = rng.normal(size=(n, size))
    scores[np.arange(n), truth] += skill
    if ties:
        scores = np.round(scores)
    return Outcome(scores, truth.astype(np.int64), rng.integers(0, users, n) * 7)


def groups_of(seed: int, size: int) -> tuple[str, ...]:
    return tuple(np.random.default_rng(seed + 1).choice(GROUP_NAMES, size))


def labels_of(size: int) -> list[str]:
    return [f"b{i}" for i in range(size)]


SEEDS = st.integers(0, 2**31)
SHAPES = st.tuples(SEEDS, st.integers(1, 50), st.integers(2, 8), st.booleans())


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_the_six_are_scikit_learns(shape):
    seed, n, size, ties = shape
    outcome, groups = outcome_of(seed, n, size, ties=ties), groups_of(seed, size)
    found = behavior_metrics(outcome, labels_of(size), groups, resamples=0)
    truth, predicted = outcome.truth, outcome.predicted
    expected = {
        "weighted_precision": precision_score(truth, predicted, average="weighted", zero_division=0),
        "weighted_recall": recall_score(truth, predicted, average="weighted", zero_division=0),
        "overall": balanced_accuracy_score(truth, predicted),
    }
    for name in GROUP_NAMES:
        members = [c for c in np.unique(truth) if groups[c] == name]
        expected[name] = (
            recall_score(truth, predicted, labels=members, average="macro", zero_division=0) if members else None
        )
    assert set(SIX) == set(expected)
    for name, value in expected.items():
        assert found.value(name) == (None if value is None else pytest.approx(value, abs=1e-12)), name
    assert found.weighted_recall == pytest.approx((truth == predicted).mean())
    assert (found.windows, found.users) == (n, len(set(outcome.users.tolist())))
    assert found.behaviors_measured == len(set(truth.tolist()))


def test_weighted_precision_is_not_accuracy_in_disguise():
    """Weighing by TP+FP, as the paper prints it, would give accuracy."""
    truth = np.array([0, 0, 0, 1, 2])
    scores = np.eye(3)[[0, 0, 1, 1, 0]]
    found = behavior_metrics(Outcome(scores, truth, truth), ["a", "b", "c"], ["head", "medium", "tail"], resamples=0)
    assert found.weighted_recall == pytest.approx(3 / 5)
    assert found.weighted_precision == pytest.approx(3 / 5 * 2 / 3 + 1 / 5 * 1 / 2)
    assert (found.overall, found.head, found.medium, found.tail) == (
        pytest.approx((2 / 3 + 1 + 0) / 3),
        pytest.approx(2 / 3),
        1.0,
        0.0,
    )


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 40), st.integers(2, 8))
def test_nll_is_log_loss_up_to_a_constant_per_row(seed, n, size):
    outcome = outcome_of(seed, n, size)
    probabilities = np.exp(outcome.scores) / np.exp(outcome.scores).sum(1, keepdims=True)
    found = behavior_metrics(outcome, labels_of(size), groups_of(seed, size), resamples=0)
    assert found.nll == pytest.approx(log_loss(outcome.truth, probabilities, labels=range(size)))
    shifted = Outcome(outcome.scores - 40.0, outcome.truth, outcome.users)
    again = behavior_metrics(shifted, labels_of(size), groups_of(seed, size), resamples=0)
    assert again.nll == pytest.approx(found.nll)


def test_counts_have_no_nll():
    outcome = Outcome(np.array([[3.0, 1.0]]), np.array([0]), np.array([0]), is_log_prob=False)
    assert behavior_metrics(outcome, ["a", "b"], ["head", "tail"], resamples=0).nll is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.data())
def test_the_expected_rank_is_the_mean_over_all_orders_of_equals(scores, data):
    truth = data.draw(st.integers(0, len(scores) - 1))
    ranks = [
        order.index(truth) + 1
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    assert expected_ranks(np.array([scores], dtype=float), np.array([truth]))[0] == pytest.approx(np.mean(ranks))


@settings(max_examples=40, deadline=None)
@given(SHAPES)
def test_rank_metrics(shape):
    seed, n, size, ties = shape
    outcome = outcome_of(seed, n, size, ties=ties)
    found = behavior_metrics(outcome, labels_of(size), groups_of(seed, size), resamples=0)
    ranks = []
    for row, truth in zip(outcome.scores, outcome.truth, strict=True):
        better, equal = sum(s > row[truth] for s in row), sum(s == row[truth] for s in row)
        ranks.append(sum(range(better + 1, better + equal + 1)) / equal)
    assert found.mrr == pytest.approx(np.mean([1 / r for r in ranks]))
    assert found.hit_at_3 == pytest.approx(np.mean([r <= 3 for r in ranks]))
    assert found.hit_at_5 == pytest.approx(np.mean([r <= 5 for r in ranks]))


def test_a_scorer_that_says_nothing_ranks_in_the_middle():
    assert expected_ranks(np.zeros((2, 9)), np.array([0, 8])).tolist() == [5.0, 5.0]


def test_groups_without_a_window_are_unknown_not_zero():
    outcome = Outcome(np.eye(3)[[0, 1]], np.array([0, 1]), np.array([0, 1]))
    found = behavior_metrics(outcome, ["a", "b", "c"], ["head", "head", "tail"], resamples=50)
    assert found.overall == found.head == 1.0
    assert found.medium is found.tail is None
    assert found.interval_of("medium") is found.interval_of("tail") is None
    assert found.behaviors_measured == 2


@settings(max_examples=40, deadline=None)
@given(SHAPES)
def test_rows_per_behavior(shape):
    seed, n, size, ties = shape
    outcome, groups = outcome_of(seed, n, size, ties=ties), groups_of(seed, size)
    rows = behavior_metrics(outcome, labels_of(size), groups, resamples=0).per_behavior
    assert [(row.behavior, row.group) for row in rows] == list(zip(labels_of(size), groups, strict=True))
    pairs = list(zip(outcome.truth.tolist(), outcome.predicted.tolist(), strict=True))
    for code, row in enumerate(rows):
        said = [t for t, p in pairs if p == code]
        held = [p for t, p in pairs if t == code]
        assert (row.support, row.predicted) == (len(held), len(said))
        assert row.recall == (pytest.approx(held.count(code) / len(held)) if held else None)
        assert row.precision == (pytest.approx(said.count(code) / len(said)) if said else None)


class TestIntervals:
    def test_they_are_a_percentile_bootstrap_over_users(self):
        """Against metrics recomputed from the windows of every drawn set of users."""
        outcome, groups = outcome_of(3, n=80, size=5, users=7), ("head", "medium", "tail", "tail", "tail")
        users = sorted(set(outcome.users.tolist()))
        drawn = np.random.default_rng(11).multinomial(len(users), [1 / len(users)] * len(users), size=40)
        values: dict[str, list[float]] = {name: [] for name in ("weighted_recall", "overall", *GROUP_NAMES)}
        for times in drawn:
            rows = [
                i for user, k in zip(users, times, strict=True) for _ in range(k)
                for i in np.flatnonzero(outcome.users == user)
            ]  # fmt: skip
            part = Outcome(outcome.scores[rows], outcome.truth[rows], outcome.users[rows])
            one = behavior_metrics(part, labels_of(5), groups, resamples=0)
            for name, found in values.items():
                value = one.value(name)
                if value is not None:
                    found.append(value)
        intervals = unit_intervals(outcome, groups, resamples=40, seed=11)
        for name, found in values.items():
            assert intervals[name] == pytest.approx(np.percentile(found, [2.5, 97.5]).tolist()), name

    def test_they_are_deterministic_and_contain_the_estimate(self):
        outcome, groups = outcome_of(5, n=400, users=40), ("head", "head", "medium", "medium", "tail", "tail")
        first = behavior_metrics(outcome, labels_of(6), groups)
        assert first == behavior_metrics(outcome, labels_of(6), groups)
        for name in ("weighted_recall", "overall", "head", "medium"):
            low, high = first.interval_of(name)
            assert 0 <= low < first.value(name) < high <= 1
        assert unit_intervals(outcome, groups, 200, seed=0) != unit_intervals(outcome, groups, 200, seed=1)

    def test_they_cover_the_truth(self):
        """60 users with their own accuracies around .4: about 95 of 100 intervals hold .4."""
        covered = 0
        for seed in range(100):
            rng = np.random.default_rng(seed)
            users = np.repeat(np.arange(60), 10)
            right = rng.random(600) < np.repeat(rng.beta(4, 6, 60), 10)
            truth = rng.integers(0, 3, 600)
            predicted = np.where(right, truth, (truth + 1) % 3)
            low, high = unit_intervals(
                Outcome(np.eye(3)[predicted], truth, users), ("head", "head", "tail"), resamples=200, seed=seed
            )["weighted_recall"]
            covered += low <= 0.4 <= high
        assert 88 <= covered <= 100

    def test_more_windows_of_the_same_users_are_no_new_evidence(self):
        outcome, groups = outcome_of(8, n=90, users=9), ("head",) * 6
        repeated = Outcome(np.tile(outcome.scores, (5, 1)), np.tile(outcome.truth, 5), np.tile(outcome.users, 5))
        once, often = unit_intervals(outcome, groups, 100), unit_intervals(repeated, groups, 100)
        assert once["weighted_recall"] is not None
        for name, interval in once.items():
            assert often[name] == (None if interval is None else pytest.approx(interval)), name

    def test_one_user_has_no_spread(self):
        outcome = outcome_of(2, users=1)
        low, high = unit_intervals(outcome, ("head",) * 6, 50)["weighted_recall"]
        assert low == high == (outcome.truth == outcome.predicted).mean()


class TestFiles:
    WHOLE = behavior_metrics(outcome_of(4), labels_of(6), groups_of(4, 6), resamples=20)

    def test_round_trip(self):
        for metrics in (self.WHOLE, behavior_metrics(outcome_of(4), labels_of(6), groups_of(4, 6), resamples=0)):
            assert Metrics.from_dict(json.loads(json.dumps(metrics.to_dict(), allow_nan=False))) == metrics

    def test_runs_of_before_lack_the_units(self):
        older = {name: value for name, value in self.WHOLE.to_dict().items() if name != "resampled"}
        found = Metrics.from_dict(older)
        assert json.dumps(found.to_dict()) == json.dumps(older)
        assert (found.units.split, found.units.unit, found.units.count) == ("users", "users", found.users)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mrr": "high"}, "'mrr' is high, not a number"),
            ({"windows": 2.5}, r"'windows' is 2\.5, not a number"),
            ({"weighted_recall": None}, "'weighted_recall' is None"),
            ({"later": 1}, "unknown field 'later'"),
            ({"per_behavior": {}}, "'per_behavior' is not a list"),
            ({"per_behavior": [{}]}, r"per_behavior\[0\]: field 'behavior' is missing"),
            ({"interval": {"overall": [0, 1]}}, r"m\.json\.interval: field"),
            ({"resampled": {"unit": "users"}}, r"m\.json\.resampled: field 'split' is missing"),
        ],
    )
    def test_what_a_file_says_is_checked(self, change, message):
        with pytest.raises(EdgebError, match=message) as caught:
            Metrics.from_dict({**self.WHOLE.to_dict(), **change}, "m.json")
        assert caught.value.message.startswith("m.json")
        assert caught.value.hint

    def test_a_missing_field_is_named(self):
        with pytest.raises(EdgebError, match=r"m\.json: field 'nll' is missing"):
            Metrics.from_dict({k: v for k, v in self.WHOLE.to_dict().items() if k != "nll"}, "m.json")
