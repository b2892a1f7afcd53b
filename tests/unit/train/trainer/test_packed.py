"""Batches without padding teach exactly what padded ones teach, on every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config
from trl.trainer.utils import add_fused_lm_head

from edge_behavior.hf.internals import attention_of
from edge_behavior.train.recipe import LoraSettings
from edge_behavior.train.rows.lazy import IGNORED
from edge_behavior.train.trainer.lora import lora_config
from edge_behavior.train.trainer.packed import Segment, can_pack, pack, packed
from edge_behavior.train.trainer.trl_internals import score_labels_only

SIZES: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "llama": LlamaConfig(**SIZES),
    "gemma3": Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
}  # fmt: skip


def batch(lengths: list[int], labelled: int) -> dict[str, torch.Tensor]:
    """Random sequences, each with a loss on its last tokens."""
    generator = torch.Generator().manual_seed(0)
    ids, mask, labels = (torch.full((len(lengths), max(lengths)), fill) for fill in (0, 0, IGNORED))
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(1, 300, (length,), generator=generator)
        mask[row, :length], labels[row, length - labelled : length] = 1, ids[row, length - labelled : length]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def pairs(prompts: list[int]) -> dict[str, torch.Tensor]:
    """Two answers of two and three tokens to each prompt; the answers to the first one begin alike."""
    lengths = [n + 2 for n in prompts] + [n + 3 for n in prompts]
    made, half = batch(lengths, 2), len(prompts)
    for row, n in enumerate(prompts):
        made["input_ids"][half + row, :n] = made["input_ids"][row, :n]
        made["labels"][half + row, n] = made["input_ids"][half + row, n]
    made["input_ids"][half, prompts[0]] = made["input_ids"][0, prompts[0]]
    made["labels"][half, prompts[0]] = made["labels"][0, prompts[0]]
    return made


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    make: Any = AutoModelForCausalLM
    base = make.from_config(CONFIGS[name], attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    model = get_peft_model(base, lora_config(LoraSettings(rank=4)))
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if "lora_B" in part:
                parameter.normal_(std=0.1)
    score_labels_only()
    add_fused_lm_head(base, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model.train()


def gradients(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[Any, dict[str, torch.Tensor]]:
    model.zero_grad()
    found = model(**inputs, use_cache=False, fused_lm_head=True)
    # Every sequence weighs differently, as in DPO.
    weights = torch.arange(1.0, 1 + len(found.log_probs))
    (found.log_probs.sum(1) * weights).sum().backward()
    return found, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["sequences", "pairs"])
def test_gradients_are_those_of_the_padded_batch(name: str, kind: str) -> None:
    model = model_of(name)
    inputs = batch([12, 3, 20, 7], 2) if kind == "sequences" else pairs([9, 1, 14])
    plain, expected = gradients(model, inputs)
    assert can_pack(model)
    with packed(model, pairs=kind == "pairs"):
        found, ours = gradients(model, inputs)
    assert attention_of(model) == "sdpa"
    assert torch.allclose(found.log_probs, plain.log_probs, atol=1e-5)
    assert torch.allclose(found.entropy, plain.entropy, atol=1e-4)
    assert torch.allclose(found.mean_logits, plain.mean_logits, atol=1e-5)
    assert torch.equal(found.is_top1, plain.is_top1)
    assert torch.equal(found.label_mask, plain.label_mask)
    assert ours.keys() == expected.keys() != set()
    size = max(float(grad.abs().max()) for grad in expected.values())
    for part, grad in expected.items():
        assert torch.allclose(ours[part], grad, atol=1e-5 * size), part


def test_checkpointed_layers_see_the_same_segments() -> None:
    model, inputs = model_of("llama"), pairs([9, 4])
    with packed(model, pairs=True):
        _, expected = gradients(model, inputs)
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        _, ours = gradients(model, inputs)
    size = max(float(grad.abs().max()) for grad in expected.values())
    assert all(torch.allclose(ours[part], grad, atol=1e-5 * size) for part, grad in expected.items())


def test_a_pair_s_prompt_lies_in_the_row_once() -> None:
    inputs = pairs([9, 14])
    row = pack(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], pairs=True)
    # The second answer begins with a copy of the prompt's last token, which predicts its first.
    assert row.segments == (Segment(11), Segment(16), Segment(4, 0, 8), Segment(4, 1, 13))
    assert row.positions[0, 27:31].tolist() == [8, 9, 10, 11]
    assert row.ids.shape == (1, 35)
    labels = inputs["labels"][:, 1:]
    assert len(row.places) == int((labels != IGNORED).sum())
    assert torch.equal(row.labels[0, 1:][row.places], labels[row.rows, row.columns])


def test_other_attention_and_other_architectures_stay_padded() -> None:
    model = model_of("llama")
    model.config.model_type = "unknown"
    assert not can_pack(model)
    before = model.get_base_model().forward
    with packed(model, wanted=False):
        assert model.get_base_model().forward == before
