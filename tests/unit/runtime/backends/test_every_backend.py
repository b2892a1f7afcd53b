"""What every backend owes, whichever the engine: PyTorch's logits, reuse, exact state, and order after a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.checks import prompt_segments
from edge_behavior.runtime.backends.base import Backend
from tests import helpers
from tests.unit.runtime import lives
from tests.unit.runtime.engines import CACHE, CANDIDATES, ENGINES, Engine, engine_of

# f32 on both sides.
CLOSE = 1e-4


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_of(request.param, tmp_path_factory.mktemp("engine"))


@pytest.fixture
def backend(engine: Engine) -> Iterator[Backend]:
    made = engine.open(256)
    yield made
    made.close()


def last_row(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(input_ids=torch.tensor([ids])).logits[0, -1].numpy())


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_order_of_calls_gives_fresh_logits(engine: Engine, backend: Backend, data: st.DataObject) -> None:
    trie = helpers.encoder(engine.tokens).trie
    ids: list[int] = []
    for _ in range(data.draw(st.integers(1, 4))):
        kept = data.draw(st.integers(0, len(ids)))
        # onnxruntime-genai may mask the padding token, which no text becomes.
        token = st.integers(0, 510).filter(lambda i: i != engine.tokens.pad_token_id)
        ids = [*ids[:kept], *data.draw(st.lists(token, min_size=1, max_size=6))]
        shared = next((i for i, (a, b) in enumerate(zip(backend.held, ids[:-1], strict=False)) if a != b), None)
        shared = min(len(backend.held), len(ids) - 1) if shared is None else shared
        hinted = data.draw(st.lists(st.sampled_from(trie.evaluated.tolist()), max_size=4, unique=True))
        row, evaluated = backend.prefill(ids, trie, hinted)
        ways = {step for node in hinted for step in trie.ancestors(node)}
        took_the_hint = set(hinted) <= set(backend.at_hand(trie))
        assert backend.held == ids
        assert evaluated >= len(ids) - shared + (len(ways) if took_the_hint else 0)
        np.testing.assert_allclose(row, last_row(engine.model, ids), atol=CLOSE)
        if took_the_hint:
            assert backend.branch(trie, hinted)[1] == 0
        else:
            assert engine.name == "torch"
        seen = set(ways) if took_the_hint else set()
        for _ in range(data.draw(st.integers(0, 3))):
            nodes = sorted(data.draw(st.sets(st.sampled_from(trie.evaluated.tolist()), min_size=1)))
            rows, evaluated = backend.branch(trie, nodes)
            ways = {step for node in nodes for step in trie.ancestors(node)}
            assert len(ways - seen) <= evaluated <= sum(len(trie.ancestors(node)) for node in nodes)
            seen |= ways
            for node, found in zip(nodes, rows, strict=True):
                way = [int(trie.tokens[n]) for n in trie.ancestors(node)]
                np.testing.assert_allclose(found, last_row(engine.model, ids + way), atol=CLOSE)
        assert backend.held == ids


def test_the_tree_is_what_one_path_after_the_other_is(engine: Engine, backend: Backend) -> None:
    trie, ids = helpers.encoder(engine.tokens).trie, list(range(30, 80))
    nodes = trie.evaluated.tolist()
    backend.prefill(ids)
    found = [row.copy() for row in backend.branch(trie, nodes)[0]]
    for node, row in zip(nodes, found, strict=True):
        way = [int(trie.tokens[step]) for step in trie.ancestors(node)]
        np.testing.assert_allclose(row, backend.prefill(ids + way)[0], atol=CLOSE)


def test_a_cache_for_one_path_at_a_time(engine: Engine) -> None:
    trie, ids = helpers.encoder(engine.tokens).trie, list(range(30, 50))
    nodes = trie.evaluated.tolist()
    backend = engine.open(len(ids) + int(trie.depths[nodes].max()))
    backend.prefill(ids, trie, nodes)
    for _ in range(2):
        for node, row in zip(nodes, backend.branch(trie, nodes)[0], strict=True):
            way = [int(trie.tokens[step]) for step in trie.ancestors(node)]
            np.testing.assert_allclose(row, last_row(engine.model, ids + way), atol=CLOSE)
    assert backend.held == ids
    backend.close()


def test_what_does_not_fit_changes_nothing(engine: Engine) -> None:
    trie = helpers.encoder(engine.tokens).trie
    backend = engine.open(20)
    ids = list(range(30, 50))
    np.testing.assert_allclose(backend.prefill(ids)[0], last_row(engine.model, ids), atol=CLOSE)
    row = backend.prefill(ids[:18], trie, trie.evaluated.tolist())[0].copy()
    for bad in ([], [*ids, 50]):
        with pytest.raises(EdgebError, match="the context holds 1 to 20"):
            backend.prefill(bad)
    with pytest.raises(EdgebError, match=r"the prompt has 18 tokens and a label \d, the context holds 20"):
        backend.branch(trie, trie.evaluated.tolist())
    assert backend.held == ids[:18]
    np.testing.assert_allclose(backend.prefill(ids[:18])[0], row, atol=CLOSE)
    backend.close()


def test_a_thousand_appends(engine: Engine) -> None:
    """One token at a time, with a look at the labels now and then; then back to the beginning."""
    backend, trie = engine.open(CACHE), helpers.encoder(engine.tokens).trie
    ids = np.random.default_rng(0).integers(3, 500, 1001).tolist()
    backend.prefill(ids[:1])
    for count in range(2, len(ids) + 1):
        row, evaluated = backend.prefill(ids[:count])
        assert evaluated == 1
        if count % 100 == 0:
            backend.branch(trie, trie.evaluated[:3].tolist())
    np.testing.assert_allclose(row, last_row(engine.model, ids), atol=CLOSE)
    again = [*ids[:10], 7]
    row, evaluated = backend.prefill(again)
    assert evaluated == 1
    np.testing.assert_allclose(row, last_row(engine.model, again), atol=CLOSE)
    backend.close()


def test_state_is_restored_bit_by_bit(engine: Engine) -> None:
    trie, ids = helpers.encoder(engine.tokens).trie, list(range(30, 80))
    saved, restored = engine.open(256), engine.open(256)
    saved.prefill(ids)
    nodes = trie.evaluated.tolist()
    saved.branch(trie, nodes[:3])
    state = saved.save_state()
    if engine.name == "onnx":
        assert state == b""
        assert not restored.load_state(ids, state)
        return
    restored.prefill([9, 8, 7])
    assert restored.load_state(ids, state)
    assert restored.held == ids
    assert restored.save_state() == state
    rows = []
    for backend in (saved, restored):
        row, evaluated = backend.prefill([*ids, 77])
        assert evaluated == 1
        rows.append(np.stack([row.copy(), *backend.branch(trie, nodes)[0]]))
    np.testing.assert_array_equal(*rows)
    np.testing.assert_allclose(rows[0][0], last_row(engine.model, [*ids, 77]), atol=CLOSE)
    for claimed, content in ((ids[:-1], state), ([*ids, 5], state), (ids, state[:-8]), (ids, b""), (ids, b"\xff" * 99)):
        assert not restored.load_state(claimed, content)
        assert restored.held == []
        assert not restored.at_hand(trie)
    np.testing.assert_allclose(restored.prefill(ids)[0], last_row(engine.model, ids), atol=CLOSE)
    for backend in (saved, restored):
        backend.close()


def test_text_becomes_the_same_tokens_as_in_training(engine: Engine, backend: Backend) -> None:
    encoder = helpers.encoder(engine.tokens)
    texts = prompt_segments(PromptLayout("instruct"), CANDIDATES, ("DK", "AB"))
    for text in [*texts, "<|endoftext|>", "a<|im_end|>b", "東京 é́ \u00a0x"]:
        assert backend.tokenize(text) == encoder.segment(text), text
    assert len(backend.tokenize("<|endoftext|>")) > 1, "special tokens are text"


def test_another_trie_is_another_question(engine: Engine, backend: Backend) -> None:
    ids, own = [40, 41, 42], helpers.encoder(engine.tokens).trie
    backend.prefill(ids, own, [1])
    for trie in (lives.TRIE, own, lives.TRIE):
        assert not set(backend.at_hand(trie)) or trie is own
        for node, row in zip([1, 2], backend.branch(trie, [1, 2])[0], strict=True):
            way = [int(trie.tokens[step]) for step in trie.ancestors(node)]
            np.testing.assert_allclose(row, last_row(engine.model, ids + way), atol=CLOSE)


def test_time_in_the_engine_is_counted(backend: Backend) -> None:
    spent = [backend.decode_seconds]
    for ids in ([40, 41, 42], [40, 41, 43]):
        backend.prefill(ids)
        spent.append(backend.decode_seconds)
    assert all(before < after for before, after in pairwise(spent))


def test_closed(engine: Engine) -> None:
    lives.refuses_after_close(engine.open(64))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_child_is_refused_and_comes_to_its_end(engine: Engine) -> None:
    backend = engine.open(64)
    lives.refused_in_fork(backend)
    backend.close()
