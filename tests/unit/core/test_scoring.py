"""p(y|x), exact and masked, against label-by-label computation from full logit rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.scoring import check_scoring, log_softmax
from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError
from tests.trie_scoring import exact_log_probs, masked_log_probs

VOCAB = 12
END = 11
LABELS = st.lists(
    st.lists(st.integers(0, 4), min_size=1, max_size=4).map(lambda p: (*p, END)), min_size=2, max_size=10, unique=True
)
SEEDS = st.integers(0, 2**32 - 1)


class Rows:
    """A made-up language model: a full row of logits after every way into a label."""

    def __init__(self, paths: list[tuple[int, ...]], seed: int, spread: float = 3.0) -> None:
        rng = np.random.default_rng(seed)
        self.paths = paths
        ways = sorted({path[:i] for path in paths for i in range(len(path))})
        self.rows = {way: rng.normal(0, spread, VOCAB) for way in ways}

    def exact(self) -> list[float]:
        found = []
        for path in self.paths:
            total = 0.0
            for i, token in enumerate(path):
                row = self.rows[path[:i]]
                total += row[token] - row.max() - np.log(np.exp(row - row.max()).sum())
            found.append(total)
        return found

    def masked(self) -> list[float]:
        found = []
        for path in self.paths:
            p = 1.0
            for i, token in enumerate(path):
                allowed = sorted({other[i] for other in self.paths if len(other) > i and other[:i] == path[:i]})
                weights = np.exp(self.rows[path[:i]] - self.rows[path[:i]].max())
                p *= weights[token] / weights[allowed].sum()
            found.append(float(np.log(p)))
        return found

    def read_off(self, trie: LabelTrie) -> tuple[np.ndarray, np.ndarray]:
        """What a backend reads: each node's logit in its parent's row, and the log-sum-exp of every inner row."""
        ways = [tuple(int(trie.tokens[n]) for n in trie.ancestors(node)) for node in range(len(trie))]
        logits = np.array([np.nan] + [self.rows[way[:-1]][way[-1]] for way in ways[1:]])
        sums = np.array([np.logaddexp.reduce(self.rows[ways[node]]) for node in trie.inner])
        return logits, sums


@settings(max_examples=100, deadline=None)
@given(LABELS, SEEDS)
def test_exact_is_the_product_of_full_vocabulary_probabilities(paths, seed):
    model, trie = Rows(paths, seed), LabelTrie.from_paths(paths)
    scores = exact_log_probs(trie, *model.read_off(trie))
    np.testing.assert_allclose(scores, model.exact(), rtol=0, atol=1e-10)
    # No label is a prefix of another, so the candidates are disjoint events of the full model.
    assert np.exp(scores).sum() <= 1 + 1e-12


@settings(max_examples=100, deadline=None)
@given(LABELS, SEEDS)
def test_masked_renormalizes_every_choice(paths, seed):
    model, trie = Rows(paths, seed), LabelTrie.from_paths(paths)
    scores = masked_log_probs(trie, model.read_off(trie)[0])
    np.testing.assert_allclose(scores, model.masked(), rtol=0, atol=1e-10)
    assert np.isclose(np.exp(scores).sum(), 1.0)


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(6)), SEEDS)
def test_both_agree_where_labels_are_one_token_and_a_sure_end(first_tokens, seed):
    """Nothing is lost below the first choice, so renormalizing early or late is the same."""
    paths = [(token, END) for token in first_tokens]
    model, trie = Rows(paths, seed), LabelTrie.from_paths(paths)
    for token in first_tokens:
        model.rows[(token,)][:] = -1e9
        model.rows[(token,)][END] = 0.0
    logits, sums = model.read_off(trie)
    np.testing.assert_allclose(masked_log_probs(trie, logits), log_softmax(exact_log_probs(trie, logits, sums)))


@settings(max_examples=60, deadline=None)
@given(LABELS, SEEDS)
def test_both_agree_where_the_model_says_nothing_but_labels(paths, seed):
    model, trie = Rows(paths, seed), LabelTrie.from_paths(paths)
    for way, row in model.rows.items():
        allowed = {path[len(way)] for path in paths if path[: len(way)] == way}
        row[[token for token in range(VOCAB) if token not in allowed]] = -np.inf
    logits, sums = model.read_off(trie)
    exact = exact_log_probs(trie, logits, sums)
    np.testing.assert_allclose(masked_log_probs(trie, logits), exact, atol=1e-10)
    assert np.isclose(np.exp(exact).sum(), 1.0)


def test_they_differ_where_a_labels_end_is_unlikely():
    """Masked is led down a path whose only end the model does not believe in."""
    trie = LabelTrie.from_paths([(0, END), (1, END)])
    logits = np.array([np.nan, np.log(0.6), np.log(0.4), np.log(0.1), np.log(0.9)])
    exact = np.exp(exact_log_probs(trie, logits, np.zeros(3)))
    np.testing.assert_allclose(exact, [0.06, 0.36])
    np.testing.assert_allclose(np.exp(log_softmax(np.log(exact))), [1 / 7, 6 / 7])
    np.testing.assert_allclose(np.exp(masked_log_probs(trie, logits)), [0.6, 0.4])


@settings(max_examples=40, deadline=None)
@given(LABELS, SEEDS, st.sampled_from([(), (1,), (5,), (2, 3)]))
def test_leading_dimensions_are_batch(paths, seed, shape):
    trie = LabelTrie.from_paths(paths)
    read = [Rows(paths, seed + i).read_off(trie) for i in range(int(np.prod(shape)))]
    logits = np.stack([r[0] for r in read]).reshape(*shape, -1)
    sums = np.stack([r[1] for r in read]).reshape(*shape, -1)
    for scores, one in (
        (exact_log_probs(trie, logits, sums), [exact_log_probs(trie, *r) for r in read]),
        (masked_log_probs(trie, logits), [masked_log_probs(trie, r[0]) for r in read]),
    ):
        assert scores.shape == (*shape, len(paths))
        np.testing.assert_array_equal(scores.reshape(-1, len(paths)), one)


def test_single_precision_input_is_summed_in_double():
    trie = LabelTrie.from_paths([tuple([0] * 60 + [i, END]) for i in range(3)])
    logits = np.full(len(trie), -5.123, dtype=np.float32)
    sums = np.full(len(trie.inner), 7.3, dtype=np.float32)
    scores = exact_log_probs(trie, logits, sums)
    assert scores.dtype == masked_log_probs(trie, logits).dtype == np.float64
    expected = 62 * (float(np.float32(-5.123)) - float(np.float32(7.3)))
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(LABELS, SEEDS)
def test_a_constant_added_to_every_logit_changes_nothing(paths, seed):
    trie = LabelTrie.from_paths(paths)
    logits, sums = Rows(paths, seed).read_off(trie)
    np.testing.assert_allclose(
        exact_log_probs(trie, logits + 500, sums + 500), exact_log_probs(trie, logits, sums), atol=1e-9
    )
    np.testing.assert_allclose(masked_log_probs(trie, logits + 500), masked_log_probs(trie, logits), atol=1e-9)


def test_log_softmax_holds_at_extreme_scores():
    scores = np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0], [-np.inf, 1.0, 1.0], [-3e5, -3e5, -3e5 - 1]])
    found = log_softmax(scores)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1.0)
    np.testing.assert_allclose(found[1], np.log(1 / 3))
    np.testing.assert_allclose(found[2], [-np.inf, np.log(0.5), np.log(0.5)])
    assert found[0, 2] == -2e4


def test_unknown_scoring_names_the_nearest():
    assert check_scoring("exact") == "exact"
    assert check_scoring("masked") == "masked"
    with pytest.raises(EdgebError, match="unknown scoring 'mask'") as caught:
        check_scoring("mask")
    assert caught.value.hint == "did you mean 'masked'?"
