"""config.json and tokenizer_config.json as both versions of Transformers read them, and the weights' precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

from edge_behavior.errors import EdgebError
from edge_behavior.export.hf.model_folder import (
    check_format,
    own_format,
    portable_config,
    portable_tokenizer_config,
    write_model_folder,
)
from tests.unit.export.conftest import (
    LLAMA3_ROPE,
    SMALL_TOKENIZERS,
    gemma3,
    gemma_tokenizer,
    llama,
    llama3_tokenizer,
    qwen2,
    qwen2_tokenizer,
    qwen3,
    save,
    smollm_tokenizer,
)

LINEAR = {"rope_type": "linear", "rope_theta": 20000.0, "factor": 2.0}


def llama3_scaling() -> dict[str, Any]:
    return {name: value for name, value in LLAMA3_ROPE.items() if name != "rope_theta"}


def gemma_rope(full: dict[str, Any]) -> dict[str, Any]:
    return {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0}}


@pytest.mark.parametrize(
    ("make", "rope", "old"),
    [
        (qwen2, {"rope_type": "default", "rope_theta": 1e6}, {"rope_theta": 1e6, "rope_scaling": None}),
        (qwen3, LINEAR, {"rope_theta": 20000.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        (llama, LLAMA3_ROPE, {"rope_theta": 10000.0, "rope_scaling": llama3_scaling()}),
        (
            gemma3,
            gemma_rope({"rope_type": "default", "rope_theta": 1e6}),
            {"rope_theta": 1e6, "rope_local_base_freq": 5000.0, "rope_scaling": None},
        ),
        (
            gemma3,
            gemma_rope(LINEAR),
            {
                "rope_theta": 20000.0,
                "rope_local_base_freq": 5000.0,
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            },
        ),
    ],
    ids=["qwen2", "qwen3-linear", "llama3", "gemma3", "gemma3-linear"],
)
def test_old_and_new_names_of_the_rope(make: Any, rope: dict[str, Any], old: dict[str, Any], tmp_path: Path) -> None:
    make(64, rope_parameters=rope).config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    found = portable_config(config, "bfloat16")
    assert {name: found[name] for name in old} == old
    assert (found["torch_dtype"], found["dtype"]) == ("bfloat16", "bfloat16")
    expected = AutoConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(found))
    read = AutoConfig.from_pretrained(tmp_path)
    assert read.rope_parameters == expected.rope_parameters
    assert read.dtype == torch.bfloat16
    assert {**read.to_dict(), "dtype": None} == {**expected.to_dict(), "dtype": None}


@pytest.mark.parametrize("name", list(SMALL_TOKENIZERS))
def test_tokenizers(name: str, tmp_path: Path) -> None:
    tokenizer = SMALL_TOKENIZERS[name]()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|role|>"]})
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    found = portable_tokenizer_config(json.loads(file.read_text()))
    assert found["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"is_local", "local_files_only", "backend"} & found.keys()
    assert (found["additional_special_tokens"], "extra_special_tokens" in found) == (["<|role|>"], False)
    file.write_text(json.dumps(found))
    read = AutoTokenizer.from_pretrained(tmp_path)
    text = "Check email <|role|> 東京 it's\n 12"
    assert read(text).input_ids == tokenizer(text).input_ids
    assert read.special_tokens_map == tokenizer.special_tokens_map
    assert read.extra_special_tokens == ["<|role|>"]


def test_named_special_tokens_stay_named() -> None:
    named = {"image_token": "<image>"}
    assert portable_tokenizer_config({"extra_special_tokens": named})["extra_special_tokens"] == named


FAMILIES = [
    (qwen2, qwen2_tokenizer),
    (qwen3, qwen2_tokenizer),
    (llama, llama3_tokenizer),
    (llama, smollm_tokenizer),
    (gemma3, gemma_tokenizer),
]


@pytest.mark.parametrize(("make", "tokens"), FAMILIES)
@pytest.mark.parametrize("quant", ["f16", "bf16", "f32"])
def test_weights(make: Any, tokens: Any, quant: str, tmp_path: Path) -> None:
    tokenizer = tokens()
    tokenizer.chat_template = "{{ messages }}"
    model = save(make(len(tokenizer)), tokenizer, tmp_path / "m")
    types = write_model_folder(model, tmp_path / "out", quant)
    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert types == {quant.upper(): len(before)}
    assert len({file.stat().st_mode for file in (tmp_path / "out").iterdir()}) == 1
    assert before.keys() == after.keys()
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[quant]
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor.to(dtype)), name
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ messages }}"
    assert own_format(AutoConfig.from_pretrained(tmp_path / "out")) == quant


def test_sharded_weights(tmp_path: Path) -> None:
    tokenizer = qwen2_tokenizer()
    model = qwen2(len(tokenizer))
    model.save_pretrained(tmp_path / "m", max_shard_size="40KB")
    tokenizer.save_pretrained(tmp_path / "m")
    write_model_folder(tmp_path / "m", tmp_path / "out", "f16")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 1
    loaded = [tensor for file in files for tensor in load_file(tmp_path / "out" / file).values()]
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in loaded)


@pytest.mark.parametrize(
    ("value", "message"),
    [(1e6, r"'x' does not fit f16 .pass --quant bf16 or f32"), (float("nan"), "'x' holds values that are not finite")],
)
def test_weights_that_do_not_fit(value: float, message: str, tmp_path: Path) -> None:
    model = save(qwen2(64), qwen2_tokenizer(), tmp_path / "m")
    save_file({"x": torch.tensor([value])}, model / "model.safetensors")
    with pytest.raises(EdgebError, match=message):
        write_model_folder(model, tmp_path / "out", "f16")


@pytest.mark.parametrize("quant", ["q4", "q8", "auto", "f8"])
def test_other_formats_are_refused(quant: str) -> None:
    with pytest.raises(EdgebError, match="a Hugging Face folder h"):
        check_format(quant)
