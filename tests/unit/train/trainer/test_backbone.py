"""How the backbone is loaded: 4-bit weights train and score, and what is missing is said before time is spent."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import bitsandbytes
import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import Qwen2ForCausalLM

from edge_behavior.errors import EdgebError
from edge_behavior.hf.tree_scoring import TorchScorer
from edge_behavior.train.recipe import ATuning, BackboneConfig, LoraSettings, Recipe
from edge_behavior.train.rows.lazy import IGNORED, joined
from edge_behavior.train.stages.sft import train_sft
from edge_behavior.train.stages.tuning import Tuning
from edge_behavior.train.standin.model import architecture
from edge_behavior.train.trainer import arguments as trainer_arguments
from edge_behavior.train.trainer import backbone
from edge_behavior.train.trainer.arguments import bookkeeping
from edge_behavior.train.trainer.backbone import attention, check_four_bits, load_model
from edge_behavior.train.trainer.lora import lora_config
from tests import helpers


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


def test_four_bit_weights_are_smaller_train_and_score(
    tokens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QLoRA as bitsandbytes runs it: NF4 linear layers, the adapter alone learns. On a CPU without its fast kernels."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)
    torch.manual_seed(0)
    # bitsandbytes' CPU kernels want multiples of their block.
    shape = BackboneConfig(hidden_size=128, layers=2, intermediate_size=256)
    plain = Qwen2ForCausalLM(architecture(shape, tokens)).eval()
    base = helpers.save(plain, tokens, tmp_path / "base")
    settings = BackboneConfig(path=str(base), quantize="4bit")
    model = load_model(str(base), settings)
    linear = model.model.layers[0].mlp.up_proj
    assert type(linear).__name__ == "Linear4bit"
    assert linear.weight.numel() * linear.weight.element_size() == 128 * 256 // 2
    encoder = helpers.encoder(tokens)
    prompts = [encoder.prompt_ids(helpers.diary(5, s), helpers.diary(6, s)[-1].time, "DK") for s in range(3)]
    close = TorchScorer(model, encoder).score(prompts).log_probs, TorchScorer(plain, encoder).score(prompts).log_probs
    assert 0 < np.abs(close[0] - close[1]).max() < 1.5

    stretch = encoder.stretch(helpers.diary(6, 1))
    labels = [IGNORED] * len(stretch.ids)
    for a, b in stretch.targets[1:]:
        labels[a:b] = stretch.ids[a:b]
    row = {"input_ids": stretch.ids, "labels": labels}
    recipe = Recipe(backbone=settings, lora=LoraSettings(rank=4), a_tuning=ATuning(batch_size=2, learning_rate=5e-3))
    before = linear.weight.clone()
    tuning = Tuning(recipe, "a_tuning", 1, 6, tmp_path / "a", tmp_path / "logs")
    result = train_sft(model, tokens, joined([[row, row]] * 6), joined([[row, row]]), tuning)
    losses = [line["loss"] for line in result["log"] if "loss" in line]
    assert losses[-1] < losses[0]
    assert torch.equal(before, linear.weight)
    assert (tmp_path / "a" / "adapter" / "adapter_model.safetensors").is_file()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(backbone, "find_spec", lambda name: None)
    monkeypatch.setattr(trainer_arguments, "find_spec", lambda name: None)
    with pytest.raises(EdgebError, match="needs a GPU"):
        check_four_bits()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(EdgebError, match="needs bitsandbytes"):
        check_four_bits()
    with pytest.raises(EdgebError, match="names wandb, which is not installed"):
        bookkeeping(Recipe(report_to=["wandb"]), tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed here")
def test_flash_attention_is_refused_where_it_is_not() -> None:
    assert attention(BackboneConfig()) == "sdpa"
    with pytest.raises(EdgebError, match="flash-attn"):
        attention(BackboneConfig(attention="flash_attention_2"))


def test_a_gpu_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch, tokens: Any, tmp_path: Path) -> None:
    base = helpers.save(helpers.model(tokens), tokens, tmp_path / "base")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    with pytest.raises(EdgebError, match="this GPU has no bfloat16") as caught:
        load_model(str(base), BackboneConfig(path=str(base), dtype="bfloat16"))
    assert "float16" in caught.value.hint


def test_scoring_puts_the_attention_back(tokens: Any) -> None:
    """A model that trains with kernels that take no tree mask scores with ones that do."""
    model = get_peft_model(helpers.model(tokens), lora_config(LoraSettings(rank=4)))
    encoder = helpers.encoder(tokens)
    prompt = encoder.prompt_ids(helpers.diary(4), helpers.diary(5)[-1].time, "DK")
    wanted = TorchScorer(model, encoder).score([prompt]).log_probs
    switched: list[str] = []

    def switch(name: str) -> None:
        switched.append(name)
        model.config._attn_implementation = name

    # Transformers would look for the kernels' package.
    model.base_model.model.set_attn_implementation = switch
    model.config._attn_implementation = "flash_attention_2"
    found = TorchScorer(model, encoder).score([prompt]).log_probs
    assert switched == ["sdpa", "flash_attention_2"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
