"""One pass over prompt and trie gives what one forward pass per label gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
)

from edge_behavior.core.prompts import LAYOUTS, PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.hf import tree_scoring
from edge_behavior.hf.tree import head
from edge_behavior.hf.tree.attention import attention_windows
from edge_behavior.hf.tree_scoring import TorchScorer
from tests import helpers
from tests.unit.export.conftest import GEOMETRY, gemma3, qwen2, qwen3, randomized


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("max_tokens", [16_384, 1])
def test_agrees_with_brute_force(name: str, max_tokens: int) -> None:
    tokens = helpers.tokenizer()
    model, encoder = helpers.model(tokens), helpers.encoder(tokens, PromptLayout(name=name))
    histories = [helpers.diary(n, seed) for seed, n in enumerate((1, 24, 7, 3, 2))]
    prompts = [encoder.prompt_ids(h[:-1], h[-1].time, h[-1].place) for h in histories]
    scores = TorchScorer(model, encoder, max_tokens).score(prompts)
    expected = [[helpers.brute_force(model, p, encoder.label_ids(label)) for label in helpers.LABELS] for p in prompts]
    np.testing.assert_allclose(scores.log_probs, expected, atol=1e-4)
    assert scores.embeddings.shape == (5, 64)


WINDOW = {"sliding_window": 24}
ARCHITECTURES: dict[str, Callable[[int], Any]] = {
    "qwen3": qwen3,
    "gemma3": gemma3,
    "qwen2 with windows": lambda rows: qwen2(rows, use_sliding_window=True, max_window_layers=1, **WINDOW),
    "qwen2 without": lambda rows: qwen2(rows, use_sliding_window=False, **WINDOW),
    "mistral": lambda rows: randomized(MistralForCausalLM(MistralConfig(**GEOMETRY, vocab_size=rows, **WINDOW))),
}


@pytest.mark.parametrize("part", [1, 256])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_see_what_they_see_in_a_plain_forward_pass(
    name: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts and the static part are longer than the windows are; the trie is evaluated in parts, and as a whole."""
    monkeypatch.setattr(tree_scoring, "PART_NODES", part)
    tokens = helpers.tokenizer()
    model, encoder = ARCHITECTURES[name](len(tokens)), helpers.encoder(tokens)
    assert len(encoder.static_ids) > 2 * 24
    histories = [helpers.diary(n, seed) for seed, n in enumerate((1, 14, 7))]
    prompts = [encoder.prompt_ids(h[:-1], h[-1].time, h[-1].place) for h in histories]
    scores = TorchScorer(model, encoder).score(prompts)
    expected = [[helpers.brute_force(model, p, encoder.label_ids(label)) for label in helpers.LABELS] for p in prompts]
    np.testing.assert_allclose(scores.log_probs, expected, atol=1e-4)


def test_another_kind_of_attention_is_refused() -> None:
    config = Qwen3Config(**GEOMETRY, layer_types=["full_attention", "chunked_attention"])
    with pytest.raises(EdgebError, match="layers of chunked_attention"):
        attention_windows(config)


def test_embedding_is_the_last_hidden_state_of_the_prompt() -> None:
    tokens = helpers.tokenizer()
    model, encoder = helpers.model(tokens), helpers.encoder(tokens)
    history = helpers.diary(9)
    prompt = encoder.prompt_ids(history[:-1], history[-1].time, history[-1].place)
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1][0, -1]
    np.testing.assert_allclose(TorchScorer(model, encoder).score([prompt]).embeddings[0], hidden.numpy(), atol=1e-4)


def test_scores_a_peft_model_and_restores_its_mode() -> None:
    tokens = helpers.tokenizer()
    model = get_peft_model(helpers.model(tokens), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    encoder = helpers.encoder(tokens)
    model.train()
    history = helpers.diary(5)
    prompt = encoder.prompt_ids(history[:-1], history[-1].time, history[-1].place)
    scores = TorchScorer(model, encoder).score([prompt]).log_probs[0]
    assert model.training
    model.eval()
    expected = [helpers.brute_force(model, prompt, encoder.label_ids(label)) for label in helpers.LABELS]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_no_prompts() -> None:
    tokens = helpers.tokenizer()
    scores = TorchScorer(helpers.model(tokens), helpers.encoder(tokens)).score([])
    assert scores.log_probs.shape == (0, len(helpers.LABELS))


class Widest(TorchDispatchMode):
    """Rows of the largest tensor as wide as the vocabulary; weights are not counted."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self._vocabulary, self._hidden, self.rows = vocabulary, hidden, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            wide = isinstance(leaf, torch.Tensor) and leaf.shape[-1:] == (self._vocabulary,)
            if wide and leaf.shape != (self._hidden, self._vocabulary):
                self.rows = max(self.rows, leaf.numel() // self._vocabulary)
        return out


# Many labels with shared beginnings: more inner nodes than one tile has rows.
MANY = [
    f"{first} {second}-{third}" for first in ("Bar", "Café", "Video") for second in range(13) for third in range(12)
]


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


@pytest.mark.long
def test_a_trie_larger_than_a_tile(tokens: Any) -> None:
    encoder, model = helpers.encoder(tokens, labels=MANY), helpers.model(tokens)
    assert len(encoder.trie.inner) > 2 * head.TILE_ROWS
    histories = [helpers.diary(n, seed) for seed, n in enumerate((3, 6, 4))]
    prompts = [encoder.prompt_ids(h[:-1], h[-1].time, h[-1].place) for h in histories]
    seen: list[int] = []
    for max_tokens in (1, 8192):
        watch = model.lm_head.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[0]))
        scores = TorchScorer(model, encoder, max_tokens).score(prompts)
        watch.remove()
        for prompt, row in zip(prompts, scores.log_probs, strict=True):
            for i in range(0, len(MANY), 31):
                by_hand = helpers.brute_force(model, prompt, encoder.label_ids(MANY[i]))
                assert row[i] == pytest.approx(by_hand, abs=1e-4)
    # Once with a window per pass and once with all together; the static part comes before each, then the prompts and
    # the parts of the trie: one per first word of the labels.
    assert seen == [1, *[1, 1, 1, 1] * 3, 1, *[3, 3, 3, 3]]


@pytest.mark.parametrize("tile", [1, 7, 256])
def test_no_logits_of_more_rows_than_a_tile_exist(tile: int, tokens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a larger trie nor more windows make them more, and the scores are the same."""
    encoder, model = helpers.encoder(tokens, labels=MANY), helpers.model(tokens)
    history = helpers.diary(5)
    prompt = encoder.prompt_ids(history[:-1], history[-1].time, history[-1].place)
    expected = TorchScorer(model, encoder).score([prompt])
    monkeypatch.setattr(head, "TILE_ROWS", tile)
    with Widest(len(tokens), 64) as widest:
        scores = TorchScorer(model, encoder).score([prompt] * 2)
    assert widest.rows == tile
    np.testing.assert_allclose(scores.log_probs, [expected.log_probs[0]] * 2, atol=1e-4)
    np.testing.assert_allclose(scores.embeddings, [expected.embeddings[0]] * 2, atol=1e-4)


def test_the_head_is_given_back_as_it_was(tokens: Any) -> None:
    """A library that has put its own forward into the layer keeps it, and it is what makes the logits."""
    encoder, model = helpers.encoder(tokens), helpers.model(tokens)
    history = helpers.diary(5)
    prompt = encoder.prompt_ids(history[:-1], history[-1].time, history[-1].place)
    plain = TorchScorer(model, encoder).score([prompt]).log_probs
    assert "forward" not in model.lm_head.__dict__
    own, calls = model.lm_head.forward, []

    def wrapped(states: torch.Tensor) -> torch.Tensor:
        calls.append(len(states))
        return own(states)

    model.lm_head.forward = wrapped
    np.testing.assert_array_equal(TorchScorer(model, encoder).score([prompt]).log_probs, plain)
    assert model.lm_head.__dict__["forward"] is wrapped
    assert calls == [1, len(encoder.trie.inner)]


def test_an_untied_head(tokens: Any) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model, encoder = LlamaForCausalLM(config).eval(), helpers.encoder(tokens)
    history = helpers.diary(9)
    prompt = encoder.prompt_ids(history[:-1], history[-1].time, history[-1].place)
    expected = [helpers.brute_force(model, prompt, encoder.label_ids(label)) for label in helpers.LABELS]
    np.testing.assert_allclose(TorchScorer(model, encoder).score([prompt]).log_probs[0], expected, atol=1e-4)


def test_a_model_that_changes_its_logits_afterwards_is_refused(tokens: Any) -> None:
    config = Gemma2Config(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.1, attn_logit_softcapping=None,
        attn_implementation="eager",
    )  # fmt: skip
    encoder = helpers.encoder(tokens)
    history = helpers.diary(5)
    prompt = encoder.prompt_ids(history[:-1], history[-1].time, history[-1].place)
    with pytest.raises(EdgebError, match="gemma2 changes its logits"):
        TorchScorer(Gemma2ForCausalLM(config).eval(), encoder).score([prompt])
