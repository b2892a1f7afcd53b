"""A GGUF file becomes the Hugging Face folder that it was made from."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.quantize import quantize
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.hf.architectures import check_backbone
from edge_behavior.hf.gguf_weights import write_backbone
from edge_behavior.hf.tokenizers import plain_encoder, special_ids
from tests.unit.export.conftest import (
    CORPUS,
    LLAMA3_ROPE,
    SMALL_TOKENIZERS,
    gemma3,
    llama,
    qwen2,
    qwen3,
    save,
    some_ids,
    torch_logits,
)

PUBLISHED_ROPE = LLAMA3_ROPE | {"rope_theta": 500_000.0, "original_max_position_embeddings": 8192}
MODELS: dict[str, tuple[Callable[[int], Any], str]] = {
    "qwen2": (qwen2, "qwen2"),
    "qwen2 untied": (lambda rows: qwen2(rows, tie_word_embeddings=False), "qwen2"),
    "qwen3": (qwen3, "qwen2"),
    "llama": (llama, "sentencepiece"),
    "llama 3.2": (lambda rows: llama(rows, rope_parameters=PUBLISHED_ROPE | {"factor": 32.0}), "llama3"),
    "llama with biases": (lambda rows: llama(rows, attention_bias=True, mlp_bias=True), "llama3"),
    "smollm2": (lambda rows: llama(rows, tie_word_embeddings=True), "smollm"),
    "gemma3": (gemma3, "gemma"),
}
TEXTS = [*CORPUS[:3], "  two  spaces", "12345 it's", "", "\n\n\t", "東京 é 🙂"]


def made(folder: Path, name: str, dtype: str = "f16") -> tuple[Any, Any, Path]:
    """A model, its tokenizer and both as a GGUF file."""
    torch.manual_seed(0)
    make, tokens = MODELS[name]
    tokenizer = SMALL_TOKENIZERS[tokens]()
    model = make(len(tokenizer))
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    save(model, tokenizer, folder / "source")
    write_gguf(folder / "source", folder / "model.gguf", dtype)
    return model, tokenizer, folder / "model.gguf"


def opened(folder: Path, file: Path) -> Path:
    (folder / "opened").mkdir()
    write_backbone(file, folder / "opened")
    return folder / "opened"


@pytest.mark.parametrize("name", MODELS)
def test_the_folder_is_the_model(tmp_path: Path, name: str) -> None:
    model, tokenizer, file = made(tmp_path, name)
    folder = opened(tmp_path, file)
    check_backbone(folder)
    again, tokens = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder),
    )
    ids = some_ids(len(tokenizer), 200)
    difference = float(np.abs(torch_logits(again.eval(), ids) - torch_logits(model, ids)).max())
    assert difference < 1e-4
    assert special_ids(tokens) == special_ids(tokenizer)
    ours, theirs = plain_encoder(tokens), plain_encoder(tokenizer)
    for text in TEXTS:
        assert ours(text) == theirs(text), text
        assert tokens(text).input_ids == tokenizer(text).input_ids, text


@pytest.mark.parametrize("quant", ["q4_0", "q4", "q5", "q8"])
def test_quantized_weights_are_those_that_llama_cpp_unpacks(tmp_path: Path, quant: str) -> None:
    torch.manual_seed(0)
    tokenizer = SMALL_TOKENIZERS["smollm"]()
    model = llama(len(tokenizer), hidden_size=256, intermediate_size=512, tie_word_embeddings=True)
    write_gguf(save(model, tokenizer, tmp_path / "source"), tmp_path / "f32.gguf", "f32")
    quantize(tmp_path / "f32.gguf", tmp_path / "q.gguf", quant)
    folder = opened(tmp_path, tmp_path / "q.gguf")
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize = llama_cpp.LLAMA_FTYPE_ALL_F32, True
    source, target = (os.fsencode(tmp_path / name) for name in ("q.gguf", "unpacked.gguf"))
    assert llama_cpp.llama_model_quantize(source, target, ctypes.byref(options)) == 0
    write_backbone(tmp_path / "unpacked.gguf", made_folder(tmp_path / "theirs"))
    ours, theirs = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "theirs"))
    assert ours.keys() == theirs.keys()
    before = load_file(tmp_path / "source" / "model.safetensors")
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)
        assert values.ndim == 1 or not np.array_equal(values, before[name].astype(np.float16)), name


def made_folder(path: Path) -> Path:
    path.mkdir()
    return path


def rewritten(source: Path, out: Path, **changes: Any) -> Path:
    """A copy of a GGUF file of metadata alone, some of them changed."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(str(out), changes.get("architecture", "llama"))
    for key, value in changes.get("values", {}).items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(key, value)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in changes.get("values", {}):
            continue
        if key not in changes.get("without", ()):
            writer.add_key_value(
                key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None
            )
    for tensor in reader.tensors:
        if tensor.name not in changes.get("without", ()):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


BAD = {
    "architecture": ({"architecture": "falcon"}, r"unsupported architecture falcon"),
    "split": ({"values": {"split.count": 3, "split.no": 1}}, r"is part 2 of 3"),
    "pre-tokenizer": ({"values": {"tokenizer.ggml.pre": "falcon3"}}, r"unsupported pre-tokenizer 'falcon3'"),
    "tokenizer": ({"values": {"tokenizer.ggml.model": "bert"}}, r"unsupported tokenizer model 'bert'"),
    "no layers": ({"without": ["llama.block_count"]}, r"has no llama\.block_count"),
    "no tensor": ({"without": ["blk.1.attn_q.weight"]}, r"'blk\.1\.attn_q\.weight' is missing"),
    "rope": ({"values": {"llama.rope.scaling.type": "yarn"}}, r"unsupported rope scaling 'yarn'"),
    "adapter": ({"values": {"general.type": "adapter"}}, r"is of type adapter, not a model"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_known_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    changes, message = BAD[name]
    _, _, file = made(tmp_path, "smollm2")
    with pytest.raises(EdgebError, match=message) as caught:
        opened(tmp_path, rewritten(file, tmp_path / "bad.gguf", **changes))
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_no_gguf_and_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"PK\3\4 a zip")
    with pytest.raises(EdgebError, match="is no GGUF file"):
        opened(tmp_path, tmp_path / "a.gguf")
    _, _, file = made(tmp_path, "smollm2")
    whole = file.read_bytes()
    for length in (7, 100, len(whole) // 2, len(whole) - 10):
        file.write_bytes(whole[:length])
        (tmp_path / str(length)).mkdir()
        with pytest.raises(EdgebError, match="is damaged") as caught:
            write_backbone(file, tmp_path / str(length))
        assert "again" in caught.value.hint


def test_other_ropes_are_not_guessed(tmp_path: Path) -> None:
    tokenizer = SMALL_TOKENIZERS["llama3"]()
    save(llama(len(tokenizer), rope_parameters=LLAMA3_ROPE), tokenizer, tmp_path / "source")
    write_gguf(tmp_path / "source", tmp_path / "x.gguf")
    with pytest.raises(EdgebError, match=r"neither Llama 3\.1's nor Llama 3\.2's"):
        opened(tmp_path, tmp_path / "x.gguf")
