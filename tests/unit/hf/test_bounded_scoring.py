"""Scoring as much of the trie as a goal takes says what scoring all of it says."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.search import Goal
from edge_behavior.hf import tree_scoring
from edge_behavior.hf.tree_scoring import Prompts, PromptScores, TorchScorer
from tests import helpers
from tests.unit.hf.test_tree_scoring import ARCHITECTURES, MANY


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


def prompts_of(encoder: Any, *sizes: int) -> list[list[int]]:
    histories = [helpers.diary(n, seed) for seed, n in enumerate(sizes)]
    return [encoder.prompt_ids(h[:-1], h[-1].time, h[-1].place) for h in histories]


def within(ranks: int, bound: float, target: int) -> Goal:
    return Goal(ranks, -math.expm1(-bound), target=target)


def assert_holds(found: PromptScores, whole: PromptScores, goals: list[Goal]) -> None:
    """What the goals promise, given the exhaustive scores."""
    for i, goal in enumerate(goals):
        known, log_probs, expected = found.known[i], found.log_probs[i], whole.log_probs[i]
        np.testing.assert_allclose(log_probs[known], expected[known], atol=1e-4)
        if goal.target is not None:
            assert known[goal.target]
        if goal.top_k is None:
            assert known.all()
            continue
        np.testing.assert_allclose(
            np.sort(log_probs)[::-1][: goal.top_k], np.sort(expected)[::-1][: goal.top_k], atol=1e-4
        )
        assert log_probs.argmax() == expected.argmax()
        total = np.logaddexp.reduce(log_probs)
        assert np.logaddexp.reduce(expected) <= total + 1e-4
        assert total <= np.logaddexp.reduce(expected[known]) - math.log1p(-min(goal.tolerance, 1 - 1e-12)) + 1e-4
    np.testing.assert_allclose(found.embeddings, whole.embeddings, atol=1e-4)


@pytest.mark.parametrize("name", ["llama-like", *ARCHITECTURES])
def test_every_family_and_window(name: str, tokens: Any) -> None:
    """Goals of all kinds in one batch, with windows shorter than static part and prompts."""
    make = ARCHITECTURES.get(name, lambda _: helpers.model(tokens))
    model, encoder = make(len(tokens)), helpers.encoder(tokens, labels=MANY[::7])
    prompts = prompts_of(encoder, 14, 3, 9, 22, 9)
    goals = [Goal(1, target=5), within(2, 0.1, 40), Goal(), within(5, 0.01, 0), Goal(3)]
    whole = TorchScorer(model, encoder).score(prompts)
    found = TorchScorer(model, encoder).score(prompts, goals)
    assert_holds(found, whole, goals)
    assert found.trie_tokens[2] == len(encoder.trie.evaluated)
    assert (found.trie_tokens <= len(encoder.trie.evaluated)).all()


@settings(deadline=None, max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    seed=st.integers(0, 1_000),
    spread=st.sampled_from([2.0, 5.0]),
    ranks=st.integers(1, 5),
    bound=st.sampled_from([10.0, 0.1, 0.001]),
    max_tokens=st.sampled_from([1, 300, 8192]),
)
def test_any_batch_and_any_goal(
    sizes: list[int], seed: int, spread: float, ranks: int, bound: float, max_tokens: int
) -> None:
    tokens = helpers.tokenizer()
    model, encoder = helpers.model(tokens, seed, spread=spread), helpers.encoder(tokens, labels=MANY[:60])
    prompts = prompts_of(encoder, *sizes)
    rng = np.random.default_rng(seed)
    goals = [within(ranks, bound, int(rng.integers(60))) for _ in prompts]
    whole = TorchScorer(model, encoder).score(prompts)
    assert_holds(TorchScorer(model, encoder, max_tokens).score(prompts, goals), whole, goals)


@pytest.mark.parametrize("name", ["llama-like", *ARCHITECTURES])
@pytest.mark.parametrize(("max_tokens", "part"), [(1, 256), (500, 256), (8192, 256), (1, 8), (8192, 8)])
def test_prompts_that_share_a_sequence_score_as_alone(
    name: str, max_tokens: int, part: int, tokens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences of different lengths with different numbers of prompts, in one batch, with any goals."""
    make = ARCHITECTURES.get(name, lambda _: helpers.model(tokens))
    model, encoder = make(len(tokens)), helpers.encoder(tokens, PromptLayout("stream"), MANY[::7])
    goals = [Goal(), Goal(1, target=5), within(2, 0.1, 40), Goal(), within(5, 0.01, 0), Goal(3)]
    shared, alone = [], []
    for seed, (length, asked) in enumerate(((14, [3, 4, 9, 13]), (5, [4]), (20, [2]))):
        stretch = encoder.stretch(helpers.diary(length, seed, MANY[::7]))
        ends = [stretch.targets[i][0] for i in asked]
        own = [goals[(seed + i) % len(goals)] for i in range(len(ends))]
        shared.append(Prompts(stretch.ids[: ends[-1]], ends, own))
        alone += [(stretch.ids[:end], goal) for end, goal in zip(ends, own, strict=True)]
    whole = TorchScorer(model, encoder).score([ids for ids, _ in alone])
    monkeypatch.setattr(tree_scoring, "PART_NODES", part)
    scored: list[int] = []
    found = TorchScorer(model, encoder, max_tokens).score_shared(shared, scored.append)
    assert_holds(found, whole, [goal for _, goal in alone])
    assert sum(scored) == len(alone)
    evaluated = [count for count, (_, goal) in zip(found.trie_tokens, alone, strict=True) if goal.everything]
    assert set(evaluated) == {len(encoder.trie.evaluated)}


def test_a_shared_sequence_is_evaluated_once(tokens: Any) -> None:
    model, encoder = helpers.model(tokens), helpers.encoder(tokens, PromptLayout("stream"))
    stretch = encoder.stretch(helpers.diary(12))
    ends = [stretch.targets[i][0] for i in (5, 8, 11)]
    sizes: list[int] = []
    watch = model.model.layers[0].register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[1]))
    TorchScorer(model, encoder).score_shared([Prompts(stretch.ids[: ends[-1]], ends, [Goal()] * 3)])
    watch.remove()
    static, nodes = len(encoder.static_ids), len(encoder.trie.evaluated)
    assert sizes == [static, ends[-1] - static + 3 * nodes]


def test_finished_prompts_are_not_evaluated_further(tokens: Any) -> None:
    model, encoder = helpers.model(tokens), helpers.encoder(tokens, labels=MANY[::3])
    assert len(encoder.trie.evaluated) < tree_scoring.PART_NODES
    prompts = prompts_of(encoder, 5, 5, 5)
    goals = [Goal(), within(1, 0.0001, 3), Goal()]
    rows: list[int] = []
    watch = model.model.layers[0].register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[0]))
    TorchScorer(model, encoder).score(prompts, goals)
    watch.remove()
    # The static part, then all three prompts, then the one that is not done.
    assert rows[:2] == [1, 3]
    assert set(rows[2:]) == {1}


def test_no_pass_is_larger_than_allowed(tokens: Any) -> None:
    model, encoder = helpers.model(tokens), helpers.encoder(tokens, labels=MANY)
    prompts = prompts_of(encoder, 2, 2, 2, 2)
    longest = max(len(prompt) - len(encoder.static_ids) for prompt in prompts)
    passes: list[int] = []
    watch = model.model.layers[0].register_forward_pre_hook(
        lambda _, given: passes.append(given[0].shape[0] * given[0].shape[1])
    )
    TorchScorer(model, encoder, 4 * longest).score(prompts, [Goal(1, 0.0001)] * 4)
    watch.remove()
    assert max(passes[1:]) <= 4 * longest
    assert len(passes) > 3


def test_transformers_has_no_complaints(tokens: Any) -> None:
    model, encoder = helpers.model(tokens), helpers.encoder(tokens)
    prompts = prompts_of(encoder, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert TorchScorer(model, encoder).score(prompts, [Goal(1)]).log_probs.shape == (1, 9)
