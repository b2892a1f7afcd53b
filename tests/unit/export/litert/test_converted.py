"""Architectures through LiteRT's own converter: a few layers answer as PyTorch does, trees as path after path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from tests import helpers, litert_files
from tests.unit.export.conftest import (
    LLAMA3_ROPE,
    llama,
    llama3_tokenizer,
    qwen2_tokenizer,
    qwen3,
    save,
    smollm_tokenizer,
    some_ids,
    torch_logits,
)
from tests.unit.runtime.engines import CANDIDATES, LITERT, manifest_of, require

pytestmark = pytest.mark.slow

# Four layers, with what sets the architecture apart: norms of queries and keys, Llama 3's rope, tied weights. Qwen2 is
# converted by the tests of every backend, Gemma 3 by `test_pipeline`.
MODELS: dict[str, tuple[str, Callable[[], PreTrainedTokenizerFast], Callable[[int], Any]]] = {
    "qwen3": ("qwen3", qwen2_tokenizer, lambda size: qwen3(size, num_hidden_layers=4)),
    "llama": (
        "llama",
        llama3_tokenizer,
        lambda size: llama(size, num_hidden_layers=4, rope_parameters=LLAMA3_ROPE),
    ),
    "smollm2": (
        "llama",
        smollm_tokenizer,
        lambda size: llama(size, num_hidden_layers=4, tie_word_embeddings=True),
    ),
}
CACHE = 256
# As the architectures' other tests hold them: against PyTorch, and against itself.
CLOSE, SAME = 1e-3, 1e-4


@pytest.fixture(scope="module", params=MODELS)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A model, its tokenizer, and a backend over what it was converted to."""
    require(LITERT)
    folder, (architecture, tokenizer, make) = tmp_path_factory.mktemp("converted"), MODELS[request.param]
    torch.manual_seed(0)
    tokens = tokenizer()
    model = make(len(tokens))
    base = save(model, tokens, folder / "base")
    write_gguf(base, folder / "m.gguf", "f32")
    manifest = manifest_of(tokens, CANDIDATES, PromptLayout(), architecture=architecture)
    bundle = litert_files.converted(base, folder / "m.gguf", manifest, folder / "m.tflite", CACHE)
    backend = LiteRtBackend(bundle, LiteRtRunOptions(CACHE, 1))
    yield model, tokens, backend
    backend.close()


def test_logits_are_those_of_pytorch(converted: Any) -> None:
    """By a call without cache, by full calls and by single tokens."""
    model, tokens, backend = converted
    ids = some_ids(len(tokens), 60)
    expected = torch_logits(model, ids)
    assert np.ptp(expected, axis=1).min() > 1
    for end in (1, 9, 40, 41, 42, 60):
        np.testing.assert_allclose(backend.prefill(ids[:end])[0], expected[end - 1], atol=CLOSE, rtol=0)


def test_the_tree_is_what_one_path_after_the_other_is(converted: Any) -> None:
    model, tokens, backend = converted
    trie, ids = helpers.encoder(tokens).trie, some_ids(len(tokens), 50)
    nodes = trie.evaluated.tolist()
    backend.prefill(ids)
    found = [row.copy() for row in backend.branch(trie, nodes)[0]]
    for node, row in zip(nodes, found, strict=True):
        way = [int(trie.tokens[step]) for step in trie.ancestors(node)]
        np.testing.assert_allclose(row, backend.prefill(ids + way)[0], atol=SAME, rtol=0)
        np.testing.assert_allclose(row, torch_logits(model, ids + way)[-1], atol=CLOSE, rtol=0)
