"""One pass over prompt and trie gives what one forward pass per label gives."""

from __future__ import annotations

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model

from edge_behavior.prompts import LAYOUTS, PromptLayout
from edge_behavior.runtime.torch_scorer import TorchScorer
from tests import helpers


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


def test_embedding_is_the_last_hidden_state_of_the_prompt() -> None:
    import torch

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
