"""GPUs that are not here: what trainers are told about them, seen through patched answers of torch."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from peft import get_peft_model
from transformers import TrainingArguments

from edge_behavior.errors import EdgebError
from edge_behavior.train.preflight import check_inputs
from edge_behavior.train.recipe import BackboneConfig, LoraSettings, Recipe
from edge_behavior.train.trainer.arguments import bookkeeping, hardware, on_one_device
from edge_behavior.train.trainer.lora import in_float32, lora_config
from edge_behavior.train.trainer.processes import idle_gpus, release_memory
from edge_behavior.train.trainer.progress import run
from tests import helpers


def test_a_lone_process_keeps_to_one_of_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", per_device_train_batch_size=4
    )
    arguments._n_gpu = 8
    assert arguments.train_batch_size == 32
    assert on_one_device(arguments).train_batch_size == 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert idle_gpus() == 7


@pytest.mark.parametrize(
    ("has_bf16", "dtype", "expected"),
    [
        (True, torch.bfloat16, (True, False)),
        (True, torch.float16, (True, False)),
        (False, torch.float16, (False, True)),
        (False, torch.float32, (False, False)),
    ],
)
def test_float16_weights_have_their_loss_scaled(
    has_bf16: bool, dtype: torch.dtype, expected: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    told = hardware(dtype)
    assert (told["bf16"], told["fp16"]) == expected


def test_trained_weights_are_float32_and_the_others_stay() -> None:
    base = helpers.model(helpers.tokenizer()).to(torch.bfloat16)
    model: Any = get_peft_model(base, lora_config(LoraSettings(rank=4, alpha=8)))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    in_float32(model)
    kinds = {(p.requires_grad, p.dtype) for p in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_models_in_circles_are_released() -> None:
    model = helpers.model(helpers.tokenizer())
    model.circle = [model]
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is not None
        release_memory()
        assert gone() is None
    finally:
        gc.enable()


def test_fsdp_wants_a_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(EdgebError, match="a stand-in cannot be trained with FSDP"):
        check_inputs(Recipe(backbone=BackboneConfig(path=None)), cast(Any, None))


def test_every_stage_is_a_wandb_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = []
    monkeypatch.setitem(
        sys.modules, "wandb", SimpleNamespace(finish=lambda: finished.append(1), __spec__=SimpleNamespace())
    )
    told = bookkeeping(Recipe(report_to=["wandb"]), tmp_path / "mine" / "a_tuning")
    assert told["run_name"] == "mine-a_tuning"
    trainer = SimpleNamespace(
        args=SimpleNamespace(report_to=told["report_to"]),
        remove_callback=lambda _: None,
        train=lambda resume_from_checkpoint: None,
        callback_handler=SimpleNamespace(callbacks=[]),
        state="done",
    )
    assert run(trainer) == "done"
    assert finished == [1]
