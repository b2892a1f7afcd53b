"""Weights, configurations and tokenizers that are missing or cut short end in one line that names the file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from peft.tuners.lora import LoraLayer

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import BackboneConfig, LoraSettings
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.trainer.backbone import load_tokenizer
from edge_behavior.train.trainer.lora import lora_config
from tests import helpers


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a backbone and an adapter."""
    folder, tokens = tmp_path_factory.mktemp("models") / "run", helpers.tokenizer()
    model = helpers.model(tokens)
    helpers.save(model, tokens, folder / "backbone")
    get_peft_model(model, lora_config(LoraSettings(rank=4))).save_pretrained(str(folder / "a_tuning" / "adapter"))
    helpers.begin(RunFolder(folder))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(made, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def load(run: RunFolder) -> Any:
    return RunModels(run, BackboneConfig()).load("a_tuning")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def test_a_whole_run_loads(run: RunFolder) -> None:
    assert load(run).peft_config["default"].r == 4


@pytest.mark.parametrize(
    ("recipe", "recorded", "found"),
    [("auto", None, "float32"), ("auto", "bfloat16", "bfloat16"), ("float32", "bfloat16", "float32")],
)
def test_auto_is_the_dtype_that_the_run_was_begun_with(
    recipe: Any, recorded: str | None, found: str, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if recorded is not None:
        run.update(computing={"dtype": recorded, "why": "it was faster"})
    model = RunModels(run, BackboneConfig(dtype=recipe)).load("a_tuning", trainable=True)
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {getattr(torch, found)}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_to_score_with_is_merged_where_nothing_is_rounded(run: RunFolder, dtype: Any) -> None:
    tokens, torch_dtype = helpers.tokenizer(), getattr(torch, dtype)
    given = get_peft_model(helpers.model(tokens), lora_config(LoraSettings(rank=4)))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weights in given.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.05)
    given.save_pretrained(str(run.adapter("a_tuning")))
    found = RunModels(run, BackboneConfig(dtype=dtype)).load("a_tuning")
    merged = {layer.merged for layer in found.modules() if isinstance(layer, LoraLayer)}
    assert merged == {dtype == "float32"}
    ids = torch.tensor([tokens("Gym, then Office", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        expected, logits = given.to(torch_dtype)(input_ids=ids).logits, found(input_ids=ids).logits
        plain = helpers.model(tokens).to(torch_dtype)(input_ids=ids).logits
    rounding = 1e-4 if dtype == "float32" else 0.1
    torch.testing.assert_close(logits, expected, atol=rounding, rtol=0)
    assert (logits - plain).abs().max() > 2 * rounding


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("what", ["is missing", "is damaged"])
def test_a_broken_adapter_is_named(run: RunFolder, name: str, what: str) -> None:
    file = run.adapter("a_tuning") / name
    if what == "is missing":
        file.unlink()
    else:
        cut(file)
    with pytest.raises(EdgebError) as caught:
        load(run)
    assert caught.value.message.startswith(f"{file} {what}")
    assert "\n" not in caught.value.message
    assert caught.value.hint.startswith(f"delete {run.path / 'a_tuning'}: ")


@pytest.mark.parametrize("content", ["[]", '{"x": 1}'])
def test_a_configuration_of_something_else_is_named(run: RunFolder, content: str) -> None:
    (run.adapter("a_tuning") / "adapter_config.json").write_text(content)
    with pytest.raises(EdgebError, match=r"adapter_config\.json is damaged"):
        load(run)


def test_an_adapter_of_another_size_is_named(run: RunFolder) -> None:
    file = run.adapter("a_tuning") / "adapter_config.json"
    file.write_text(file.read_text().replace('"r": 4', '"r": 2'))
    with pytest.raises(EdgebError, match="does not fit the backbone"):
        load(run)


def test_memory_that_runs_out_stays_what_it_is(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a RuntimeError too, and has its own message with the fields that help."""

    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("edge_behavior.train.run.models.PeftModel.from_pretrained", fail)
    with pytest.raises(torch.OutOfMemoryError):
        load(run)


def test_a_cut_backbone_is_named(run: RunFolder) -> None:
    cut(run.path / "backbone" / "model.safetensors")
    with pytest.raises(EdgebError, match=r"cannot load backbone '.*/backbone/model\.safetensors'"):
        load(run)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is empty"), ("{}", "cannot load"), ('{"ve', "cannot load")],
)
def test_a_tokenizer_that_is_gone_or_damaged_is_named(run: RunFolder, content: str | None, message: str) -> None:
    file = run.path / "backbone" / "tokenizer.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(EdgebError, match=message) as caught:
        load_tokenizer(run.backbone)
    assert run.backbone in caught.value.message
