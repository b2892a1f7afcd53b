"""Parameter counts against real models, and packed weights against bitsandbytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config

from edge_behavior.errors import EdgebError
from edge_behavior.train.geometry import NF4_BYTES, geometry, with_adapter
from edge_behavior.train.recipe import LoraSettings
from edge_behavior.train.trainer.backbone import read_config
from tests import helpers
from tests.unit.train.plan.configs import LLAMA, LORA, QWEN, small


def test_parameters_and_adapter_are_those_of_a_real_model_under_peft() -> None:
    model = helpers.model(helpers.tokenizer())
    found = geometry(model.config, LoraSettings(rank=5))
    assert found.parameters == sum(p.numel() for p in model.parameters())
    tuned = with_adapter(model, LoraSettings(rank=5))
    assert found.adapter == sum(p.numel() for p in tuned.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("config", "parameters", "adapter"),
    [(Qwen2Config(**QWEN), 1_543_714_304, 9_232_384), (LlamaConfig(**LLAMA), 8_030_261_248, 20_971_520)],
    ids=["qwen2-1.5b", "llama3.1-8b"],
)
def test_known_models(config: Any, parameters: int, adapter: int) -> None:
    found = geometry(config, LORA)
    assert (found.parameters, found.adapter) == (parameters, adapter)


def test_the_linear_layers_are_all_but_embedding_head_and_norms() -> None:
    found = geometry(small(3, tie_word_embeddings=False), LORA)
    assert len(found.linears) == 3 * 7
    assert found.parameters - found.packable == 2 * 600 * 64 + (2 * 3 + 1) * 64 + 3 * (64 + 32 + 32)


def test_nf4_is_what_bitsandbytes_allocates() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    packed, state = functional.quantize_4bit(
        torch.randn(640, 257), quant_type="nf4", compress_statistics=True, blocksize=64
    )
    held = sum(tensor.nbytes for tensor in (packed, state.absmax, state.state2.absmax))
    assert held == pytest.approx(640 * 257 * NF4_BYTES, rel=1e-4)


def test_a_folder_with_a_configuration_is_enough(tmp_path: Path) -> None:
    small(2).save_pretrained(tmp_path)
    assert geometry(read_config(tmp_path), LORA).linears == geometry(small(2), LORA).linears
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such model"}))
    with pytest.raises(EdgebError, match="no configuration at backbone"):
        read_config(tmp_path)
