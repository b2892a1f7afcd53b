"""A merged model is the adapter, and what does not belong together is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_behavior.errors import EdgebError
from edge_behavior.export import merge
from edge_behavior.export.merge import MergeOptions, logit_difference, merge_adapter
from tests.unit.export.conftest import llama, qwen2, qwen2_tokenizer, save, some_ids, torch_logits


def test_merged_folder_is_the_adapter(tiny_base: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    probe = merge_adapter(tiny_base, tiny_adapter, tmp_path / "m")
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    ids = some_ids(300, 60)
    plain = torch_logits(base, ids)
    adapted = PeftModel.from_pretrained(base, str(tiny_adapter)).eval()
    expected = torch_logits(adapted, ids)
    assert np.abs(expected - plain).max() > 0.1
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert np.abs(torch_logits(merged, ids) - expected).max() < 1e-4
    assert np.abs(torch_logits(adapted, probe.ids) - probe.logits).max() < 1e-5
    assert probe.difference < 1e-4
    assert AutoTokenizer.from_pretrained(tmp_path / "m").get_vocab() == qwen2_tokenizer().get_vocab()
    # By hand: W + alpha / r * B A.
    lora = load_file(tiny_adapter / "adapter_model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    a, b = (lora[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    before, after = (load_file(d / "model.safetensors")[f"{name}.weight"] for d in (tiny_base, tmp_path / "m"))
    np.testing.assert_allclose(after, before + 8 / 4 * b @ a, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lower_precision(tiny_base: Path, tiny_adapter: Path, tmp_path: Path, dtype: str) -> None:
    merge_adapter(tiny_base, tiny_adapter, tmp_path / "m", MergeOptions(dtype))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").dtype == getattr(torch, dtype)


def test_backbone_alone(tiny_base: Path, tmp_path: Path) -> None:
    probe = merge_adapter(tiny_base, None, tmp_path / "m", MergeOptions(probe_ids=(5, 6, 7)))
    assert probe.difference == 0.0
    expected = torch_logits(AutoModelForCausalLM.from_pretrained(tiny_base), [5, 6, 7])
    np.testing.assert_allclose(probe.logits, expected, atol=1e-5)


def test_logits_that_changed_are_refused(
    tiny_base: Path, tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(merge.TOLERANCES, "float32", 1e-12)
    with pytest.raises(EdgebError, match="changed the logits by"):
        merge_adapter(tiny_base, tiny_adapter, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_logit_difference() -> None:
    zeros = np.zeros((2, 3), np.float32)
    assert logit_difference(zeros, zeros + 0.5) == 0.5
    assert logit_difference(zeros, np.full((2, 3), np.nan, np.float32)) == float("inf")
    assert logit_difference(zeros, zeros[:1]) == float("inf")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda rows: qwen2(rows, hidden_size=128, intermediate_size=512), "is 192 wide, the backbone's is 128"),
        (lambda rows: qwen2(rows, hidden_size=192, intermediate_size=256), "is 512 wide, the backbone's is 256"),
        (
            lambda rows: llama(rows, hidden_size=192, intermediate_size=512, num_hidden_layers=1),
            r"the backbone \(1 layers\) has no linear layer",
        ),
    ],
)
def test_adapter_of_another_backbone(tiny_adapter: Path, tmp_path: Path, other: Any, message: str) -> None:
    tokenizer = qwen2_tokenizer()
    save(other(len(tokenizer)), tokenizer, tmp_path / "base")
    with pytest.raises(EdgebError, match=f"{message}.*trained on another backbone"):
        merge_adapter(tmp_path / "base", tiny_adapter, tmp_path / "m")


def test_adapter_that_names_another_hub_model(
    tiny_base: Path, tiny_adapter: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    adapter = tmp_path / "a"
    shutil.copytree(tiny_adapter, adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "org/one"}))
    monkeypatch.setattr(merge, "find_backbone", lambda *_: tiny_base)
    merge_adapter("org/one", adapter, tmp_path / "m")
    with pytest.raises(EdgebError, match="is for org/one, not for org/two"):
        merge_adapter("org/two", adapter, tmp_path / "n")


def test_broken_adapters(tiny_base: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "a"

    def refused(message: str) -> None:
        with pytest.raises(EdgebError, match=message):
            merge_adapter(tiny_base, adapter, tmp_path / "m")

    refused(r"a/adapter_config.json is missing")
    shutil.copytree(tiny_adapter, adapter)
    weights, settings = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    content, text = weights.read_bytes(), settings.read_text()
    weights.write_bytes(content[:-100])
    refused("adapter_model.safetensors is damaged")
    save_file({"other": np.zeros(3, np.float32)}, weights)
    refused("holds no LoRA weights")
    weights.unlink()
    refused("adapter_model.safetensors is missing")
    weights.write_bytes(content)
    settings.write_text(text.replace('"LORA"', '"PROMPT_TUNING"'))
    refused("is not a LoRA adapter")
    settings.write_text("{")
    refused("cannot read .*adapter_config.json")


def test_missing_backbones(tiny_adapter: Path, tmp_path: Path) -> None:
    for base in (tmp_path / "absent", str(tmp_path / "absent"), "absent"):
        with pytest.raises(EdgebError, match=r"backbone folder .*absent does not exist"):
            merge_adapter(base, tiny_adapter, tmp_path / "m")
    with pytest.raises(EdgebError, match="'no-such-org/no-such-model' is not a folder, and the hub download failed"):
        merge_adapter("no-such-org/no-such-model", tiny_adapter, tmp_path / "m")
