"""Best-first search says exactly what scoring every label says, having looked at less."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_behavior.core.scoring import log_softmax
from edge_behavior.core.search import RANKS_ONLY, Affine, Goal, Thresholds, TrieSearch
from edge_behavior.core.trie import LabelTrie
from tests.trie_scoring import exact_log_probs, masked_log_probs

VOCAB = 12


class Model:
    """Logit rows of every trie node, drawn at random; counts what it was asked for."""

    def __init__(self, trie: LabelTrie, seed: int, spread: float) -> None:
        rng = np.random.default_rng(seed)
        self.rows = (rng.standard_normal((len(trie), VOCAB)) * spread).astype(np.float32)
        self.asked: list[int] = []

    @property
    def root(self) -> NDArray[np.float32]:
        return self.rows[0]

    def expand(self, nodes: Sequence[int]) -> list[NDArray[np.float32]]:
        assert len(set(nodes)) == len(nodes)
        assert not set(nodes) & set(self.asked), "a node was paid for twice"
        self.asked += nodes
        return [self.rows[node] for node in nodes]

    def log_probs(self, trie: LabelTrie, scoring: str) -> NDArray[np.float64]:
        token_logits = np.zeros(len(trie))
        token_logits[1:] = self.rows[trie.parents[1:], trie.tokens[1:]]
        if scoring == "masked":
            return masked_log_probs(trie, token_logits)
        rows = self.rows[trie.inner].astype(np.float64)
        top = rows.max(axis=1)
        return exact_log_probs(trie, token_logits, top + np.log(np.exp(rows - top[:, None]).sum(axis=1)))


@st.composite
def tries(draw: st.DrawFn) -> LabelTrie:
    """Label paths over a small vocabulary: shared beginnings, prefixes of each other before the terminator."""
    labels = draw(
        st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple), min_size=2, max_size=25, unique=True)
    )
    return LabelTrie.from_paths([(*label, 0) for label in labels])


@settings(deadline=None, max_examples=150)
@given(
    trie=tries(),
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
    scoring=st.sampled_from(["exact", "masked"]),
    top_k=st.integers(1, 8),
    tolerance=st.sampled_from([RANKS_ONLY, 0.3, 0.01]),
    fused=st.booleans(),
    restricted=st.booleans(),
    data=st.data(),
)
def test_top_k_is_proven(
    trie: LabelTrie,
    seed: int,
    spread: float,
    scoring: str,
    top_k: int,
    tolerance: float,
    fused: bool,
    restricted: bool,
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(seed)
    size = trie.n_candidates
    model = Model(trie, seed, spread)
    allowed = rng.random(size) < 0.6 if restricted else np.ones(size, dtype=np.bool_)
    allowed[rng.integers(size)] = True
    affine = Affine(rng.choice([0.0, 0.4, 1.0, 1.7], size), rng.standard_normal(size) * 2) if fused else None
    expected = model.log_probs(trie, scoring)
    if restricted and scoring == "masked":
        # Choices are then between the allowed children only.
        expected = restricted_masked(trie, model, allowed)
    with np.errstate(invalid="ignore"):
        scores = expected if affine is None else affine.slope * expected + affine.offset
    scores = np.where(allowed, scores, -np.inf)
    search = TrieSearch(trie, scoring, allowed if restricted else None)
    ready = search.expected_nodes(rng.standard_normal(size), data.draw(st.integers(0, 3)))
    found = search.run(model.root, model.expand, Goal(top_k, tolerance), affine, ready)

    known = found.known & allowed
    np.testing.assert_allclose(found.log_probs[known], expected[known], atol=1e-5)
    assert (found.scores[allowed] >= scores[allowed] - 1e-5).all(), "what is not known is bounded from above"
    best = np.sort(scores[allowed])[::-1][:top_k]
    listed = np.sort(np.where(known, found.scores, -np.inf))[::-1][: len(best)]
    np.testing.assert_allclose(listed, best, atol=1e-5)
    # The true distribution lies between the lower bounds and what is missing from them.
    truth, lower = np.exp(log_softmax(scores)), np.exp(found.scores - found.log_total)
    assert (lower[known] <= truth[known] + 1e-6).all()
    assert truth[allowed & ~known].sum() <= found.unexpanded + 1e-6
    if tolerance < 1:
        assert found.unexpanded <= tolerance + 1e-9


@settings(deadline=None, max_examples=200)
@given(
    trie=tries(),
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
    scoring=st.sampled_from(["exact", "masked"]),
    first=st.none() | st.floats(0, 1),
    each=st.none() | st.sampled_from([0.0, 0.003, 0.05, 0.3, 1.0]),
    fused=st.booleans(),
    temperature=st.sampled_from([0.4, 1.0, 2.5]),
)
def test_every_threshold_is_decided(
    trie: LabelTrie,
    seed: int,
    spread: float,
    scoring: str,
    first: float | None,
    each: float | None,
    fused: bool,
    temperature: float,
) -> None:
    """Which candidates reach their threshold is what the whole distribution says, however little was looked at."""
    rng = np.random.default_rng(seed)
    size, model = trie.n_candidates, Model(trie, seed, spread)
    slope, offset = (rng.choice([0.0, 0.4, 1.7], size), rng.standard_normal(size)) if fused else (1.0, 0.0)
    affine = Affine(np.full(size, slope) / temperature, np.full(size, offset) / temperature + rng.standard_normal(size))
    whole = np.exp(log_softmax(affine.slope * model.log_probs(trie, scoring) + affine.offset))
    found = TrieSearch(trie, scoring).run(model.root, model.expand, Goal(1, thresholds=Thresholds(first, each)), affine)
    shown = np.where(found.known, np.exp(found.scores - found.log_total), 0.0)
    best = int(np.argmax(np.where(found.known, found.scores, -np.inf)))
    assert whole[best] == pytest.approx(whole.max(), abs=1e-5)
    if first is not None and abs(whole[best] - first) > 1e-5:
        assert (shown[best] >= first) == (whole[best] >= first)
    if each is not None:
        clear = np.abs(whole - each) > 1e-5
        np.testing.assert_array_equal((shown >= each)[clear], (whole >= each)[clear])


def test_a_threshold_that_is_clearly_missed_or_met_costs_nothing() -> None:
    trie = LabelTrie.from_paths([(i // 6 + 1, i % 6 + 1, 7, 0) for i in range(36)])
    asked = []
    for thresholds in (Thresholds(), Thresholds(first=0.9), Thresholds(first=0.9, each=0.01)):
        model = Model(trie, 0, 0.0)
        for node in trie.ancestors(int(trie.leaves[8])):
            model.rows[trie.parents[node], trie.tokens[node]] = 20.0
        TrieSearch(trie, "exact").run(model.root, model.expand, Goal(1, thresholds=thresholds))
        asked.append(len(model.asked))
    assert asked == [3, 3, 3]


def restricted_masked(trie: LabelTrie, model: Model, allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The masked distribution of the trie of the allowed labels alone."""
    codes = np.flatnonzero(allowed)
    smaller = LabelTrie.from_paths([trie.path(int(code)) for code in codes])
    row_of = {}
    for code, kept in enumerate(codes):
        row_of.update(
            zip(smaller.ancestors(int(smaller.leaves[code])), trie.ancestors(int(trie.leaves[kept])), strict=True)
        )
    token_logits = np.zeros(len(smaller))
    for node in range(1, len(smaller)):
        token_logits[node] = model.rows[row_of.get(int(smaller.parents[node]), 0), smaller.tokens[node]]
    full = np.full(trie.n_candidates, -np.inf)
    full[codes] = masked_log_probs(smaller, token_logits)
    return full


@settings(deadline=None, max_examples=50)
@given(trie=tries(), seed=st.integers(0, 10_000), scoring=st.sampled_from(["exact", "masked"]))
def test_everything_in_one_round(trie: LabelTrie, seed: int, scoring: str) -> None:
    model = Model(trie, seed, 2.0)
    found = TrieSearch(trie, scoring).run(model.root, model.expand)
    np.testing.assert_allclose(found.log_probs, model.log_probs(trie, scoring), atol=1e-5)
    assert found.known.all()
    assert found.unexpanded == 0
    assert found.rounds <= 1


def test_a_sure_model_is_cheap() -> None:
    """37 labels of which one holds nearly everything: its own nodes are all that is paid for."""
    trie = LabelTrie.from_paths([(i // 6 + 1, i % 6 + 1, 7, 0) for i in range(36)])
    model = Model(trie, 0, 0.0)
    for node in trie.ancestors(int(trie.leaves[8])):
        model.rows[trie.parents[node], trie.tokens[node]] = 20.0
    found = TrieSearch(trie, "exact").run(model.root, model.expand, Goal(1))
    assert int(np.argmax(np.where(found.known, found.scores, -np.inf))) == 8
    assert len(model.asked) == 3
    assert found.unexpanded < 1e-6


def test_a_choice_between_one_is_free() -> None:
    trie = LabelTrie.from_paths([(1, 2, 3, 0), (4, 0), (5, 6, 0)])
    model = Model(trie, 1, 1.0)
    found = TrieSearch(trie, "masked").run(model.root, model.expand, Goal(1))
    assert model.asked == []
    np.testing.assert_allclose(found.log_probs, model.log_probs(trie, "masked"), atol=1e-6)


@pytest.mark.parametrize("size", [2, 300])
def test_many_labels(size: int) -> None:
    rng = np.random.default_rng(size)
    labels = {tuple(rng.integers(1, 9, rng.integers(1, 7))) for _ in range(3 * size)}
    trie = LabelTrie.from_paths([(*label, 0) for label in sorted(labels)[:size]])
    model = Model(trie, 3, 1.5)
    found = TrieSearch(trie, "exact").run(model.root, model.expand, Goal(5))
    expected = model.log_probs(trie, "exact")
    assert (
        np.argsort(-expected)[:5].tolist()
        == np.argsort(-np.where(found.known, found.scores, -np.inf))[:5].tolist()[: min(5, size)]
    )
    assert len(model.asked) < len(trie.evaluated) or size == 2


@settings(deadline=None, max_examples=60)
@given(trie=tries(), seed=st.integers(0, 10_000), top_k=st.integers(1, 3))
def test_rows_at_hand_are_read_when_wanted_and_before_they_go(trie: LabelTrie, seed: int, top_k: int) -> None:
    model = Model(trie, seed, 4.0)
    search = TrieSearch(trie, "exact")
    ready = set(search.expected_nodes(np.random.default_rng(seed).standard_normal(trie.n_candidates), top_k + 1))
    calls: list[list[int]] = []

    def expand(nodes: list[int]) -> object:
        calls.append(nodes)
        return model.expand(nodes)

    found = search.run(model.root, expand, Goal(top_k, RANKS_ONLY), None, ready)
    evaluating = [nodes for nodes in calls if not ready.issuperset(nodes)]
    assert found.rounds == len(evaluating)
    if evaluating:
        # What an evaluation overwrites was read before the first one, and is never asked for again.
        before = [node for nodes in calls[: calls.index(evaluating[0])] for node in nodes]
        assert sorted(before) == sorted(ready)
        assert not ready.intersection(*[set().union(*evaluating)])
    read = [node for nodes in calls for node in nodes]
    assert len(read) == len(set(read))


@settings(deadline=None, max_examples=150)
@given(
    trie=tries(),
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
    top_k=st.integers(1, 6),
    bound=st.sampled_from([None, 0.1, 0.01, 0.001]),
    cut=st.integers(1, 4),
    guessed=st.booleans(),
)
def test_a_measured_window_s_truth_first_ranks_and_sum_are_proven(
    trie: LabelTrie, seed: int, spread: float, top_k: int, bound: float | None, cut: int, guessed: bool
) -> None:
    """Also where a caller evaluates but some of what is wanted, or starts with more."""
    rng, model = np.random.default_rng(seed), Model(trie, seed, spread)
    expected, target = model.log_probs(trie, "exact"), int(rng.integers(trie.n_candidates))
    goal = Goal(top_k, RANKS_ONLY if bound is None else -math.expm1(-bound), target=target)
    search = TrieSearch(trie, "exact").begin(goal)
    nodes = [0, *(trie.ancestors(int(trie.leaves[target]))[:-1] if guessed else [])]
    asked = []
    while nodes:
        children = np.flatnonzero(np.isin(trie.parents, nodes))
        rows = model.rows[trie.parents[children]].astype(np.float64)
        steps = rows[np.arange(len(children)), trie.tokens[children]] - np.log(np.exp(rows).sum(1))
        search.read(np.array(nodes), children, steps)
        asked += nodes
        nodes = search.wanted()[:cut]
    assert len(asked) == len(set(asked))
    shares, known = search.shares(), search.known
    assert known[target]
    np.testing.assert_allclose(shares[known], expected[known], atol=1e-5)
    best = np.argsort(-expected)[:top_k]
    np.testing.assert_allclose(np.sort(shares)[::-1][:top_k], expected[best], atol=1e-5)
    total, whole = np.logaddexp.reduce(shares), np.logaddexp.reduce(expected)
    assert whole <= total + 1e-6
    if bound is not None:
        assert total <= np.logaddexp.reduce(expected[known]) + bound + 1e-6
