"""The dtype that `auto` stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from edge_behavior.train.recipe import BackboneConfig
from edge_behavior.train.trainer import precision
from edge_behavior.train.trainer.precision import bfloat16_speed, chosen_dtype

LARGE = Qwen2Config(hidden_size=1024, intermediate_size=1024)
HAS, HAS_NOT = {"avx512_bf16": True, "avx2": True}, {"avx512_bf16": False, "amx_bf16": False, "avx2": True}
NAMED = BackboneConfig(path="somewhere")


def here(monkeypatch: pytest.MonkeyPatch, able: dict[str, Any], times_as_fast: float = 2.0) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(precision, "bfloat16_speed", lambda hidden, inner: times_as_fast)


def test_bfloat16_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, HAS)
    found = chosen_dtype(NAMED, LARGE)
    assert found.dtype == "bfloat16"
    assert found.why == "bfloat16 matrix products are 2.0 times as fast as float32 here"
    here(monkeypatch, HAS, times_as_fast=1.1)
    assert chosen_dtype(NAMED, LARGE).dtype == "float32"


def test_float32_without_instructions_and_for_small_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, HAS_NOT)
    assert chosen_dtype(NAMED, LARGE).dtype == "float32"
    here(monkeypatch, HAS)
    assert chosen_dtype(NAMED, Qwen2Config(hidden_size=256, intermediate_size=768)).dtype == "float32"
    assert chosen_dtype(BackboneConfig(), None).dtype == "float32"


def test_the_checkpoints_own_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_dtype(NAMED, Qwen2Config(dtype="bfloat16")).dtype == "bfloat16"
    assert chosen_dtype(NAMED, Qwen2Config()).dtype == "float32"


def test_the_trial_ends_in_a_ratio() -> None:
    assert bfloat16_speed(64, 64) > 0
