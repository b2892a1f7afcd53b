"""Converted files give the logits of the PyTorch model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import rope_factors, write_gguf
from edge_behavior.runtime.llama.context import logits
from edge_behavior.runtime.llama.model import LlamaModel
from tests.unit.export.conftest import (
    LLAMA3_ROPE,
    gemma3,
    llama,
    llama3_tokenizer,
    qwen2,
    qwen2_tokenizer,
    qwen3,
    save,
    sentencepiece_tokenizer,
    some_ids,
    torch_logits,
)

LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
LENGTH = 200  # past original_max_position_embeddings, so that every scaled frequency matters
MODELS: dict[str, Any] = {
    "qwen2 tied": lambda rows: qwen2(rows, tie_word_embeddings=True),
    "qwen2 untied": lambda rows: qwen2(rows + 24, tie_word_embeddings=False),
    "llama tied": lambda rows: llama(rows, tie_word_embeddings=True),
    "llama untied": lambda rows: llama(rows + 8, tie_word_embeddings=False, rope_parameters=LLAMA3_ROPE),
    "llama own head width": lambda rows: llama(rows, head_dim=32, rope_parameters=LLAMA3_ROPE),
    "llama with biases": lambda rows: llama(rows, attention_bias=True, mlp_bias=True, rope_parameters=LINEAR_ROPE),
    "llama one kv head": lambda rows: llama(rows, num_key_value_heads=1),
    "qwen3 tied": lambda rows: qwen3(rows, tie_word_embeddings=True),
    "qwen3 untied": lambda rows: qwen3(rows + 8, tie_word_embeddings=False, head_dim=32),
    "gemma3": gemma3,
    "gemma3 own head width": lambda rows: gemma3(rows, head_dim=32, query_pre_attn_scalar=32, num_hidden_layers=6),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_agree(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = qwen2_tokenizer() if name.startswith("qwen2") else llama3_tokenizer()
    model = MODELS[name](len(tokenizer))
    save(model, tokenizer, tmp_path)
    ids = some_ids(model.config.vocab_size, LENGTH)
    expected = torch_logits(model, ids)
    assert np.abs(expected).max() > 1.0
    # llama.cpp looks its GELU up in a table of f16.
    for dtype, tolerance in (("f32", 5e-3 if name.startswith("gemma") else 1e-4), ("f16", 1e-2)):
        write_gguf(tmp_path, tmp_path / f"{dtype}.gguf", dtype)
        with LlamaModel(tmp_path / f"{dtype}.gguf") as loaded:
            assert loaded.n_vocab == model.config.vocab_size
            assert llama_cpp.llama_model_n_ctx_train(loaded.handle) == 512
            assert np.abs(logits(loaded, ids) - expected).max() < tolerance, dtype


def test_trained_weights_agree(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models/stories260K"
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)(
        "Once upon a time, there was a little girl named Lily. She loved"
    ).input_ids
    exact = torch_logits(model, ids)
    # Rounding the weights to f16 moves these logits (up to 22) by 0.011 in PyTorch itself.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.half().float()
    for dtype, expected, tolerance in (("f32", exact, 1e-4), ("f16", torch_logits(model, ids), 1e-2)):
        write_gguf(folder, tmp_path / f"{dtype}.gguf", dtype)
        with LlamaModel(tmp_path / f"{dtype}.gguf") as loaded:
            found = logits(loaded, ids)
        assert np.abs(found - expected).max() < tolerance, dtype
        assert np.abs(found - exact).max() < 1e-3 * np.abs(exact).max(), dtype
        assert (found.argmax(-1) == exact.argmax(-1)).all()


def test_sentencepiece_model_agrees(tmp_path: Path) -> None:
    """The always-run counterpart of the trained one."""
    torch.manual_seed(0)
    tokenizer = sentencepiece_tokenizer()
    model = llama(len(tokenizer), tie_word_embeddings=True)
    write_gguf(save(model, tokenizer, tmp_path), tmp_path / "f32.gguf", "f32")
    with LlamaModel(tmp_path / "f32.gguf") as loaded:
        text = "the hat on the inner barn, then ÷ ok"
        ids = loaded.tokenize(text)
        assert ids == tokenizer(text, add_special_tokens=False).input_ids
        assert np.abs(logits(loaded, ids) - torch_logits(model, ids)).max() < 1e-4


def test_rope_factors_are_those_of_transformers() -> None:
    model = llama(64, rope_parameters=LLAMA3_ROPE, head_dim=64)
    plain = llama(64, head_dim=64)
    ratio = (plain.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq).numpy()
    factors = rope_factors(model.config)
    assert factors is not None
    assert ratio.min() == 1.0
    assert ratio.max() == 8.0
    assert ((ratio > 1.5) & (ratio < 7.0)).any()
    np.testing.assert_allclose(factors, ratio, rtol=1e-5)
    assert rope_factors(plain.config) is None


def test_bf16_shards_and_types(tmp_path: Path) -> None:
    """bf16 weights in several shards; matrices become f16, vectors f32, values exactly those of the shards."""
    tokenizer = qwen2_tokenizer()
    model = qwen2(len(tokenizer) + 5).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    write_gguf(tmp_path, tmp_path / "f16.gguf")
    reader = gguf.GGUFReader(tmp_path / "f16.gguf")
    for tensor in reader.tensors:
        assert tensor.tensor_type.name == ("F32" if len(tensor.shape) == 1 else "F16")
    found = next(t.data for t in reader.tensors if t.name == "blk.1.ffn_down.weight")
    np.testing.assert_array_equal(found, model.model.layers[1].mlp.down_proj.weight.detach().to(torch.float16).numpy())
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert tokens[len(tokenizer) :] == [f"[PAD{i}]" for i in range(len(tokenizer), len(tokenizer) + 5)]
    assert reader.fields["tokenizer.ggml.token_type"].contents()[-5:] == [5] * 5


def _edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "unsupported architecture MistralForCausalLM .supported: Qwen2For"),
        ({"architectures": None}, "unsupported architecture model type 'qwen2'"),
        ({"quantization_config": {"bits": 4}}, "already quantized"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_parameters": YARN}, "unsupported rope scaling 'yarn'"),
        ({"num_hidden_layers": 3, "layer_types": None}, "'model.layers.2.input_layernorm.weight' is missing"),
        ({"num_hidden_layers": 1}, "number of"),
        ({"num_hidden_layers": 1, "layer_types": None}, "unknown tensor 'model.layers.1"),
        ({"intermediate_size": 256}, r"has shape \(512, 192\), the config says \(256, 192\)"),
        ({"vocab_size": 100}, "shape|embeddings"),
    ],
)
def test_unsupported_models_are_named(tiny_base: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    shutil.copytree(tiny_base, tmp_path / "m")
    _edit_config(tmp_path / "m", **changes)
    with pytest.raises(EdgebError, match=message):
        write_gguf(tmp_path / "m", tmp_path / "x.gguf")


def test_damaged_folders(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_base, folder)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1000])
    with pytest.raises(EdgebError, match=r"model.safetensors is damaged"):
        write_gguf(folder, tmp_path / "x.gguf")
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(EdgebError, match=r"pytorch_model\.bin is pickled"):
        write_gguf(folder, tmp_path / "x.gguf")
    (folder / "config.json").write_text("{")
    with pytest.raises(EdgebError, match=r"config.json is not JSON"):
        write_gguf(folder, tmp_path / "x.gguf")
    (folder / "config.json").unlink()
    with pytest.raises(EdgebError, match=r"cannot read .*config.json"):
        write_gguf(folder, tmp_path / "x.gguf")


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "not finite"), (1e6, "does not fit f16")])
def test_weights_f16_cannot_hold(tmp_path: Path, value: float, message: str) -> None:
    tokenizer = qwen2_tokenizer()
    model = qwen2(len(tokenizer))
    model.model.layers[0].mlp.up_proj.weight.data[3, 4] = value
    save(model, tokenizer, tmp_path)
    with pytest.raises(EdgebError, match=f"layers.0.mlp.up_proj.weight' .*{message}"):
        write_gguf(tmp_path, tmp_path / "x.gguf")
