"""The ONNX builder behind typed options: what it makes, what it refuses, and that it keeps to itself."""

from __future__ import annotations

import json
import logging
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edge_behavior.errors import EdgebError
from edge_behavior.export.onnx.builder import build_onnx, name_provider, weight_operators
from edge_behavior.export.onnx.options import PROVIDERS, OnnxOptions, onnx_options
from edge_behavior.export.profiles import profile_names
from edge_behavior.runtime.backends.onnx import OnnxBackend, OnnxRunOptions
from tests.unit.export.conftest import (
    LLAMA3_ROPE,
    gemma3,
    llama,
    qwen2,
    qwen2_tokenizer,
    qwen3,
    save,
    sentencepiece_tokenizer,
    some_ids,
    torch_logits,
)


def folder_of(model: Any, tokenizer: Any, tmp_path: Path, options: OnnxOptions) -> tuple[Path, dict[str, Any]]:
    save(model, tokenizer, tmp_path / "hf")
    provider = build_onnx(tmp_path / "hf", tmp_path / "onnx", options, tmp_path / "scratch")
    return tmp_path / "onnx", provider


def logits(folder: Path, ids: list[int]) -> Any:
    backend = OnnxBackend(folder, OnnxRunOptions(n_ctx=len(ids) + 8, threads=1, cpu=True))
    try:
        return backend.logits(ids)
    finally:
        backend.close()


LINEAR_ROPE = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
MODELS = {
    "qwen2": lambda size: qwen2(size, tie_word_embeddings=True),
    "qwen2 untied": lambda size: qwen2(size, tie_word_embeddings=False),
    "llama 3": lambda size: llama(size, rope_parameters=LLAMA3_ROPE),
    "linear": lambda size: qwen2(size, rope_parameters=LINEAR_ROPE),
    "qwen3 tied": lambda size: qwen3(size, tie_word_embeddings=True),
    "qwen3 own head width": lambda size: qwen3(size, head_dim=32),
    "qwen3 linear": lambda size: qwen3(size, rope_parameters=LINEAR_ROPE),
    "gemma3": gemma3,
    "gemma3 own head width": lambda size: gemma3(size, head_dim=32, query_pre_attn_scalar=32),
}


@pytest.mark.parametrize("name", MODELS)
def test_f32_agrees_with_pytorch(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    tokenizer = qwen2_tokenizer()
    model = MODELS[name](len(tokenizer))
    save(model, tokenizer, tmp_path / "hf")
    capfd.readouterr()
    folder, options = tmp_path / "onnx", OnnxOptions("f32", context_length=100)
    assert build_onnx(tmp_path / "hf", folder, options, tmp_path / "scratch") == {}
    out, err = capfd.readouterr()
    assert out == ""
    assert [line for line in err.splitlines() if line and "Building ONNX" not in line] == []
    ids = some_ids(len(tokenizer), 60)
    np.testing.assert_allclose(logits(folder, ids), torch_logits(model, ids), atol=1e-4)
    config = json.loads((folder / "genai_config.json").read_text())
    assert config["model"]["context_length"] == 100
    assert config["model"]["decoder"]["session_options"]["provider_options"] == []


def test_windows_are_kept_whole(tmp_path: Path) -> None:
    """Past the window of 24, appended to and cut anywhere."""
    torch.manual_seed(0)
    tokenizer = qwen2_tokenizer()
    model = gemma3(len(tokenizer))
    folder, _ = folder_of(model, tokenizer, tmp_path, OnnxOptions("f32"))
    assert "sliding_window" not in json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    ids = [i for i in some_ids(len(tokenizer), 200) if i != tokenizer.pad_token_id]
    backend = OnnxBackend(folder, OnnxRunOptions(n_ctx=256, threads=1, cpu=True))
    try:
        for prompt in (ids[:90], ids[:91], ids[:40] + ids[100:140], ids[:30], ids[:5] + ids[150:]):
            np.testing.assert_allclose(backend.prefill(prompt)[0], torch_logits(model, prompt)[-1], atol=1e-4)
    finally:
        backend.close()


GLOBAL_AND_LOCAL = {
    "full_attention": LINEAR_ROPE,
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.mark.parametrize(
    "model",
    [
        lambda n: llama(n, rope_parameters=LINEAR_ROPE),
        lambda n: qwen2(n, rope_parameters=LLAMA3_ROPE),
        lambda n: gemma3(n, rope_parameters=GLOBAL_AND_LOCAL),
    ],
)
def test_scalings_that_the_builder_gets_wrong(model: Any, tmp_path: Path) -> None:
    tokenizer = qwen2_tokenizer()
    with pytest.raises(
        EdgebError,
        match=r"the ONNX builder has no linear rope scaling for (llama|gemma3)|unsupported rope scaling 'llama3'",
    ):
        folder_of(model(len(tokenizer)), tokenizer, tmp_path, OnnxOptions())


def test_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = sentencepiece_tokenizer()
    model = llama(len(tokenizer))
    folder, _ = folder_of(model, tokenizer, tmp_path, OnnxOptions("f32"))
    ids = some_ids(len(tokenizer), 30)
    np.testing.assert_allclose(logits(folder, ids), torch_logits(model, ids), atol=1e-4)


# Largest difference over the largest logit. Seen here: 4 bits .16 to .19, 8 bits .017, f16 .001.
LIMITS = {"q4": 0.4, "q8": 0.04, "f16": 5e-3, "f32": 1e-5}


@pytest.mark.parametrize(
    "options",
    [
        OnnxOptions(),
        OnnxOptions(accuracy_level=1),
        OnnxOptions(block_size=16, algorithm="rtn"),
        OnnxOptions(algorithm="k_quant"),
        OnnxOptions(share_embeddings=False),
        OnnxOptions("q8"),
        OnnxOptions("f16", execution_provider="cuda"),
        OnnxOptions("q4", execution_provider="cuda"),
        OnnxOptions("q4", execution_provider="dml"),
        OnnxOptions("q4", execution_provider="webgpu"),
        OnnxOptions("f32", execution_provider="webgpu"),
        OnnxOptions("q4", execution_provider="trt-rtx"),
        OnnxOptions("q4", execution_provider="qnn", static_shapes=True, provider_options={"backend_path": "x.so"}),
    ],
    ids=lambda options: f"{options.name}, {options.algorithm}",
)
def test_formats_and_providers(options: OnnxOptions, tmp_path: Path) -> None:
    """Every graph is run, on the CPU: that shows the numbers, not that the provider takes it."""
    torch.manual_seed(0)
    tokenizer = qwen2_tokenizer()
    model = qwen2(len(tokenizer), tie_word_embeddings=True, intermediate_size=128)
    folder, provider = folder_of(model, tokenizer, tmp_path, options)
    ids = some_ids(len(tokenizer), 40)
    expected = torch_logits(model, ids)
    assert np.abs(logits(folder, ids) - expected).max() < LIMITS[options.quant] * np.abs(expected).max()
    operators = weight_operators(folder)
    if options.quant in ("f16", "f32"):
        kind = "MatMul"
    else:
        kind = "DequantizeLinear" if options.provider.qdq else "MatMulNBits"
    assert operators[kind] > 2 * 4
    config = folder / "genai_config.json"
    assert json.loads(config.read_text())["model"]["decoder"]["session_options"]["provider_options"] == []
    name_provider(folder, provider)
    named = json.loads(config.read_text())["model"]["decoder"]["session_options"]["provider_options"]
    assert [list(entry) for entry in named] == ([[options.provider.engine]] if options.provider.engine else [])
    assert all(entry[options.provider.engine].items() >= options.provider_options.items() for entry in named)


def test_options_reach_the_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = qwen2_tokenizer()
    model = qwen2(len(tokenizer), tie_word_embeddings=True, intermediate_size=128)
    options = OnnxOptions(block_size=16, accuracy_level=1, static_shapes=True, context_length=96)
    folder, _ = folder_of(model, tokenizer, tmp_path, options)
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    quantized = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert quantized
    for node in quantized:
        attributes = {a.name: a.i for a in node.attribute}
        assert (attributes["bits"], attributes["block_size"], attributes["accuracy_level"]) == (4, 16, 1)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.input
    }
    assert shapes["input_ids"] == [1, "sequence_length"]
    assert shapes["past_key_values.1.value"][:3] == [1, 2, 96]


def test_nothing_is_fetched_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    torch.manual_seed(0)
    tokenizer = qwen2_tokenizer()
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    folder, _ = folder_of(qwen2(len(tokenizer)), tokenizer, tmp_path, OnnxOptions())
    assert (root.level, list(root.handlers)) == before
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), f"{file.name} names a folder of this machine"
    assert {path.name for path in tmp_path.iterdir()} <= {"hf", "onnx", "scratch"}


def test_what_the_builder_cannot_do_is_one_line(tmp_path: Path) -> None:
    tokenizer = qwen2_tokenizer()
    # 96 is not divisible by the block.
    model = qwen2(len(tokenizer), intermediate_size=96)
    with pytest.raises(EdgebError, match="onnxruntime-genai cannot build this model: ") as error:
        folder_of(model, tokenizer, tmp_path, OnnxOptions(algorithm="k_quant", block_size=64))
    assert "\n" not in str(error.value)


def test_without_a_package_of_the_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = qwen2_tokenizer()
    monkeypatch.setitem(sys.modules, "onnxruntime_genai.models", None)
    with pytest.raises(EdgebError, match=r"the ONNX builder needs onnxruntime_genai.models .pip install 'edgeb\[onnx"):
        folder_of(qwen2(len(tokenizer)), tokenizer, tmp_path, OnnxOptions())
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", None)
    with pytest.raises(EdgebError, match="need onnxruntime-genai, which is not installed"):
        folder_of(qwen2(len(tokenizer)), tokenizer, tmp_path, OnnxOptions())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"quant": "q5"}, "ONNX export has no weight format 'q5'"),
        ({"quant": "q4_0"}, r"no weight format 'q4_0' .valid: f16, f32, q4, q8"),
        ({"execution_provider": "gpu"}, "unknown execution provider 'gpu'"),
        ({"quant": "f16"}, r"the builder has no f16 for the execution provider cpu .use q4, q8, f32"),
        ({"quant": "f32", "execution_provider": "cuda"}, "the builder has no f32 for the execution provider cuda"),
        ({"block_size": 20}, r"the block size is 20 .use 16, 32, 64, 128, 256"),
        ({"block_size": 32, "quant": "f32"}, "f32 weights have no block size"),
        ({"accuracy_level": 5}, r"the accuracy level is 5 .use 0, 1, 2, 3, 4"),
        ({"accuracy_level": 4, "quant": "f32"}, "f32 weights have no accuracy level"),
        ({"accuracy_level": 1, "execution_provider": "trt-rtx"}, "weights for trt-rtx have no accuracy level"),
        ({"algorithm": "awq"}, "unknown algorithm 'awq'"),
        ({"context_length": 0}, "the context length is 0"),
        ({"share_embeddings": True, "execution_provider": "qnn"}, "embeddings cannot be shared for qnn"),
        ({"provider_options": {"a": "b"}}, "the CPU has no provider options"),
    ],
)
def test_bad_options(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgebError, match=message) as error:
        OnnxOptions(**wrong)
    assert error.value.hint


def test_names() -> None:
    assert OnnxOptions().name == "INT4 block 32 accuracy 4, cpu"
    assert OnnxOptions("q8", 64, 1, "cuda").name == "INT8 block 64 accuracy 1, cuda"
    assert OnnxOptions("q4", execution_provider="dml").name == "INT4 block 32 accuracy 0, dml"
    assert OnnxOptions("f32").name == "FP32, cpu"
    assert OnnxOptions(execution_provider="qnn").name == "INT4 block 32, qnn"


class TestProfiles:
    def test_the_shipped_ones(self) -> None:
        assert profile_names("onnx") == ["npu-qnn", "onnx-cpu"]
        assert onnx_options("onnx-cpu", {}) == OnnxOptions("q4", 32, 4, "cpu")
        npu = onnx_options("npu-qnn", {})
        assert (npu.quant, npu.execution_provider, npu.static_shapes) == ("q4", "qnn", True)
        assert npu.provider_options["backend_path"] == "libQnnHtp.so"

    def test_flag_over_profile_over_default(self, tmp_path: Path) -> None:
        (tmp_path / "p.yaml").write_text("format: onnx\nquant: q8\nblock_size: 64\n")
        found = onnx_options(str(tmp_path / "p.yaml"), {"block_size": 128})
        assert found == OnnxOptions("q8", 128)
        assert onnx_options(None, {}) == OnnxOptions()
        with pytest.raises(EdgebError, match="f32 weights have no block size"):
            onnx_options(str(tmp_path / "p.yaml"), {"quant": "f32"})

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("quant: q4\n", r"p.yaml is a profile for gguf, not onnx .the file has to say `format: onnx`"),
            ("format: gguf\n", "p.yaml is a profile for gguf, not onnx"),
            ("format: onnx\nblocksize: 4\n", r"unknown profile field 'blocksize' .did you mean 'block_size'"),
            ("format: onnx\nblock_size: '32'\n", "block_size = '32': should be a valid integer"),
            ("format: onnx\nblock_size: true\n", "block_size = True: should be a valid integer"),
            ("format: onnx\nblock_size: 20\n", "p.yaml: the block size is 20"),
            ("format: onnx\nstatic_shapes: 1\n", "static_shapes = 1: should be a valid boolean"),
            (
                "format: onnx\nexecution_provider: qnn\nprovider_options: {a: 1}\n",
                "provider_options.a = 1: should be a valid string",
            ),
            ("- a\n", "a profile is a mapping of fields"),
            ("a: [\n", "not valid YAML"),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(EdgebError, match=message) as error:
            onnx_options(str(tmp_path / "p.yaml"), {})
        assert "\n" not in str(error.value)

    def test_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(EdgebError, match=r"no export profile named 'npu' .*npu-qnn"):
            onnx_options("npu", {})
        with pytest.raises(EdgebError, match="no profile file"):
            onnx_options(str(tmp_path / "absent.yaml"), {})


def test_every_provider_is_built_above() -> None:
    assert set(PROVIDERS) == {"cpu", "cuda", "dml", "webgpu", "trt-rtx", "qnn"}
