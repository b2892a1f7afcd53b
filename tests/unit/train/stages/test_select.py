"""Difficulty, selection and pairs against the paper's definitions and a brute-force reading of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.train.recipe import BTuning
from edge_behavior.train.stages.select import Pool, build_pairs, confusion, difficulty, per_behavior, select


def pool(n: int = 300, labels: int = 6, seed: int = 0, skew: bool = False) -> Pool:
    rng = np.random.default_rng(seed)
    weights = np.array([0.5, 0.3, 0.1, 0.07, 0.02, 0.01]) if skew else np.full(labels, 1 / labels)
    return Pool(
        targets=np.arange(n) * 3,
        truth=rng.choice(labels, n, p=weights),
        formats=np.zeros(n, dtype=np.int64),
        log_probs=rng.normal(size=(n, labels)) * 2,
        embeddings=rng.normal(size=(n, 8)).astype(np.float32),
    )


ANCHORS = np.array([True, True, True, False, False, False])


def test_difficulty_of_the_recipes_worked_example() -> None:
    """RECIPE: as printed, a correct sample with p=.9 gets .55 and a within-category mistake with p=.1 gets .45."""
    p, d = np.array([0.9, 0.1]), np.array([1.0, 0.0])
    assert difficulty(p, d, 0.5, "as-printed") == pytest.approx([0.55, 0.45])
    assert difficulty(p, d, 0.5, "intended") == pytest.approx([0.05, 0.95])


def test_confusion_is_zero_only_within_a_category() -> None:
    truth, predicted = np.array([0, 0, 0, 3, 3, 4]), np.array([0, 1, 3, 3, 5, 0])
    assert confusion(truth, predicted, ANCHORS).tolist() == [1, 0, 1, 1, 0, 1]


@given(st.floats(0, 1), st.floats(0, 1), st.booleans(), st.sampled_from(["intended", "as-printed"]))
def test_difficulty_stays_in_the_unit_interval(p: float, weight: float, within: bool, rule: str) -> None:
    d = np.array([0.0 if within else 1.0])
    [found] = difficulty(np.array([p]), d, weight, rule)
    assert 0 <= found <= 1


@pytest.mark.parametrize("selection", ["weighted-kmeans++", "difficulty", "uniform"])
@given(seed=st.integers(0, 30), size=st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_selection_is_balanced_unique_and_seeded(selection: str, seed: int, size: int) -> None:
    scored = pool(seed=seed, skew=True)
    config = BTuning(samples_per_behavior=size, selection=selection)  # type: ignore[arg-type]
    hardness = difficulty(scored.probability, confusion(scored.truth, scored.predicted, ANCHORS), 0.5, "intended")
    chosen = select(scored, hardness, config, seed)
    assert len(set(chosen.tolist())) == len(chosen)
    counts = np.bincount(scored.truth, minlength=6)
    assert np.bincount(scored.truth[chosen], minlength=6).tolist() == np.minimum(counts, size).tolist()
    assert chosen.tolist() == select(scored, hardness, config, seed).tolist()


def test_hardest_first_takes_the_hardest() -> None:
    scored = pool()
    hardness = 1 - scored.probability
    chosen = select(scored, hardness, BTuning(samples_per_behavior=5, selection="difficulty"), 0)
    for behavior in range(6):
        members = np.flatnonzero(scored.truth == behavior)
        expected = set(members[np.argsort(-hardness[members])][:5].tolist())
        assert {int(i) for i in chosen if scored.truth[i] == behavior} == expected


def test_weights_draw_hard_samples_and_clusters_are_covered() -> None:
    """Two far clusters, in each a few hard samples: k-means++ visits both, the weights prefer the hard ones."""
    rng = np.random.default_rng(0)
    n = 400
    place = np.arange(n) % 2
    hard = np.arange(n) % 20 < 2
    scored = Pool(
        targets=np.arange(n),
        truth=np.zeros(n, dtype=np.int64),
        formats=np.zeros(n, dtype=np.int64),
        log_probs=np.zeros((n, 2)),
        embeddings=(rng.normal(size=(n, 4)) * 0.1 + place[:, None] * 50).astype(np.float32),
    )
    hardness = np.where(hard, 1.0, 0.02)
    picks = [select(scored, hardness, BTuning(samples_per_behavior=10), seed) for seed in range(10)]
    assert all(set(place[chosen]) == {0, 1} for chosen in picks)
    assert np.mean([hard[chosen].mean() for chosen in picks]) > 3 * hard.mean()


def test_a_weight_counts_once() -> None:
    """The first seed is drawn by weight, the second by weight times squared distance: the expected shares are exact."""
    n = 200
    hardness = np.where(np.arange(n) < n // 2, 1.0, 0.25)
    # One embedding per sample, all equally far from each other.
    scored = Pool(
        np.arange(n), np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros((n, 2)), np.eye(n, dtype=np.float32)
    )
    config = BTuning(samples_per_behavior=2)
    hard = [int((select(scored, hardness, config, seed) < n // 2).sum()) for seed in range(600)]
    assert np.mean(hard) / 2 == pytest.approx(0.8, abs=0.035)


def test_equal_embeddings_still_give_f_samples() -> None:
    scored = pool(60)
    flat = Pool(scored.targets, scored.truth, scored.formats, scored.log_probs, np.zeros((60, 4), np.float32))
    chosen = select(flat, 1 - flat.probability, BTuning(samples_per_behavior=4), 0)
    assert len(set(chosen.tolist())) == len(chosen)
    assert np.bincount(flat.truth[chosen]).tolist() == [4] * 6


@given(st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_pairs_prefer_the_truth_to_the_prediction(seed: int) -> None:
    scored = pool(40, seed=seed)
    for i, pair in enumerate(build_pairs(scored, np.arange(40), np.zeros(40))):
        assert pair.chosen == scored.truth[i] != pair.rejected
        if scored.predicted[i] != scored.truth[i]:
            assert pair.rejected == scored.predicted[i]
        else:
            assert pair.rejected == np.argsort(scored.log_probs[i])[-2]
        assert pair.target == scored.targets[i]
        assert 0 <= pair.probability <= 1


def test_counts_name_behaviors_without_a_sample() -> None:
    assert per_behavior(np.array([0, 0, 2]), np.array([0, 2]), ["a", "b", "c"]) == {"a": 1, "b": 0, "c": 1}
