"""Vectors at marked places of a prompt: where they go, and what the label trie scores from them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from edge_behavior.core.prompts import LAYOUTS, PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.hf.tree.inputs import VectorInputs
from edge_behavior.hf.tree_scoring import TorchScorer
from tests import helpers
from tests.unit.export.conftest import gemma3


def with_marks(prompt: list[int], static: int, vocabulary: int, first: int) -> list[int]:
    """Two marks in the prompt behind the static part: vectors `first` and the one after it."""
    middle = static + (len(prompt) - static) // 2
    return [*prompt[:middle], vocabulary + first, vocabulary + first + 1, *prompt[middle:]]


def brute_force(model: Any, inputs: VectorInputs, vectors: torch.Tensor, prompt: list[int], path: list[int]) -> float:
    """Log-probability of one label by its own forward pass."""
    with torch.no_grad():
        embedded = inputs.embed(torch.tensor([prompt + path]), vectors)
        rows = torch.log_softmax(model(inputs_embeds=embedded).logits[0].double(), -1)
    return float(sum(rows[len(prompt) - 1 + k, token] for k, token in enumerate(path)))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("max_tokens", [16_384, 1])
def test_the_trie_scores_what_one_pass_per_label_does(name: str, max_tokens: int) -> None:
    tokens = helpers.tokenizer()
    model, encoder = helpers.model(tokens), helpers.encoder(tokens, PromptLayout(name=name))
    inputs = VectorInputs(model)
    vectors = torch.randn(8, inputs.width)
    static = len(encoder.static_ids)
    histories = [helpers.diary(n, seed) for seed, n in enumerate((1, 14, 7, 2))]
    prompts = [
        with_marks(encoder.prompt_ids(h[:-1], h[-1].time, h[-1].place), static, inputs.vocabulary, 2 * i)
        for i, h in enumerate(histories)
    ]
    scores = TorchScorer(model, encoder, max_tokens, inputs.with_vectors(vectors)).score(prompts).log_probs
    paths = [encoder.label_ids(label) for label in helpers.LABELS]
    expected = [[brute_force(model, inputs, vectors, prompt, path) for path in paths] for prompt in prompts]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    other = TorchScorer(model, encoder, max_tokens, inputs.with_vectors(vectors.flip(0))).score(prompts).log_probs
    assert not np.allclose(scores, other, atol=1e-2)


def test_a_vector_that_is_a_tokens_embedding_stands_for_the_token() -> None:
    """Also where the model scales its embeddings, as Gemma's does."""
    tokens = helpers.tokenizer()
    model, encoder = gemma3(len(tokens)), helpers.encoder(tokens)
    history = helpers.diary(6)
    prompt = encoder.prompt_ids(history[:-1], history[-1].time, history[-1].place)
    inputs = VectorInputs(model)
    with torch.no_grad():
        vectors = model.get_input_embeddings()(torch.tensor(prompt[-2:]))
    marked = [*prompt[:-2], inputs.vocabulary, inputs.vocabulary + 1]
    plain = TorchScorer(model, encoder).score([prompt]).log_probs
    np.testing.assert_allclose(
        TorchScorer(model, encoder, embed=inputs.with_vectors(vectors)).score([marked]).log_probs, plain, atol=1e-5
    )


def test_without_marks_all_is_as_it_was() -> None:
    tokens = helpers.tokenizer()
    model = get_peft_model(helpers.model(tokens), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    encoder, inputs = helpers.encoder(tokens), VectorInputs(model)
    history = helpers.diary(5)
    prompt = encoder.prompt_ids(history[:-1], history[-1].time, history[-1].place)
    embed = inputs.with_vectors(torch.empty(0, inputs.width))
    found = TorchScorer(model, encoder, embed=embed).score([prompt]).log_probs
    np.testing.assert_array_equal(found, TorchScorer(model, encoder).score([prompt]).log_probs)


def test_gradients_reach_the_vectors_of_their_places_only() -> None:
    tokens = helpers.tokenizer()
    model = helpers.model(tokens)
    inputs = VectorInputs(model)
    vectors = torch.randn(3, inputs.width, requires_grad=True)
    ids = torch.tensor([[5, inputs.vocabulary, 7], [inputs.vocabulary + 2, 6, 8]])
    model(inputs_embeds=inputs.embed(ids, vectors)).logits.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.abs().sum(1).gt(0).tolist() == [True, False, True]


class Strange:
    """A model whose input is no table of tokens."""

    def __init__(self, **fields: Any) -> None:
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(model_type="strange", **fields))
        self._table = torch.nn.Embedding(4, 2) if fields else None

    def get_input_embeddings(self) -> Any:
        if self._table is None:
            raise NotImplementedError
        return self._table


@pytest.mark.parametrize(
    ("fields", "message"),
    [({}, "gives no access to its input embeddings"), ({"hidden_size_per_layer_input": 8}, "again in every layer")],
)
def test_a_backbone_without_access_to_its_input_is_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(EdgebError, match=f"type strange .*{message}"):
        VectorInputs(Strange(**fields))
