"""Quantized files: their tensor types, their errors, and what an importance matrix does."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.quantize import QUANTS, quantize
from edge_behavior.export.gguf.writer import write_gguf
from tests.unit.export.conftest import qwen2, qwen2_tokenizer, save


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are all divisible by 256."""
    torch.manual_seed(0)
    tokenizer = qwen2_tokenizer()
    model = qwen2(len(tokenizer), hidden_size=256, intermediate_size=512, tie_word_embeddings=True)
    folder = save(model, tokenizer, tmp_path_factory.mktemp("wide"))
    write_gguf(folder, folder / "f16.gguf")
    return folder / "f16.gguf"


def weights(path: Path, name: str) -> np.ndarray:
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


@pytest.mark.parametrize(
    ("quant", "main", "error"),
    [("q4", "Q4_K", 0.10), ("q4_0", "Q4_0", 0.12), ("q5", "Q5_K", 0.06), ("q8", "Q8_0", 0.01)],
)
def test_formats(wide: Path, tmp_path: Path, quant: str, main: str, error: float) -> None:
    types = quantize(wide, tmp_path / "q.gguf", quant, threads=1)
    listed = [t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "q.gguf").tensors]
    assert types == {name: listed.count(name) for name in set(listed)}
    assert max((n for n in types if n != "F32"), key=lambda n: types[n]) == main
    name = "blk.0.attn_q.weight"
    before, after = weights(wide, name).astype(np.float32), weights(tmp_path / "q.gguf", name)
    assert np.linalg.norm(after - before) < error * np.linalg.norm(before)
    assert (tmp_path / "q.gguf").stat().st_size < 0.62 * wide.stat().st_size


def test_narrow_rows_fall_back(tiny_base: Path, tmp_path: Path) -> None:
    """192 columns: no K-quant fits, llama.cpp takes 5 and 8 bits instead; Q4_0 stays at 4."""
    write_gguf(tiny_base, tmp_path / "f16.gguf")
    fallback = quantize(tmp_path / "f16.gguf", tmp_path / "q4.gguf", "q4", threads=1)
    assert {"Q5_0", "Q8_0"} <= set(fallback)
    assert "F16" not in fallback
    plain = quantize(tmp_path / "f16.gguf", tmp_path / "q4_0.gguf", "q4_0", threads=1)
    assert max((n for n in plain if n != "F32"), key=lambda n: plain[n]) == "Q4_0"
    assert (tmp_path / "q4_0.gguf").stat().st_size < (tmp_path / "q4.gguf").stat().st_size


def test_importance_moves_the_error_away_from_what_matters(wide: Path, tmp_path: Path) -> None:
    name = "blk.0.ffn_up.weight"
    importance = np.full(256, 1e-3, np.float32)
    importance[::8] = 10.0
    quantize(wide, tmp_path / "flat.gguf", "q4_0", threads=1)
    quantize(wide, tmp_path / "steered.gguf", "q4_0", imatrix={name: importance}, threads=1)
    before = weights(wide, name).astype(np.float32)
    flat, steered = (weights(tmp_path / f"{n}.gguf", name) - before for n in ("flat", "steered"))
    assert np.square(steered[:, ::8]).mean() < 0.8 * np.square(flat[:, ::8]).mean()
    other = "blk.0.ffn_gate.weight"
    np.testing.assert_array_equal(weights(tmp_path / "flat.gguf", other), weights(tmp_path / "steered.gguf", other))


def test_errors(wide: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EdgebError, match=r"unknown quantization 'q4_1' .did you mean 'q4_0'"):
        quantize(wide, tmp_path / "x.gguf", "q4_1")
    with pytest.raises(EdgebError, match="in place"):
        quantize(wide, wide, "q4")
    with pytest.raises(EdgebError, match=r"could not quantize to q4: .+"):
        quantize(wide, tmp_path / "no" / "folder.gguf", "q4")
    (tmp_path / "text").write_bytes(b"hello")
    with pytest.raises(EdgebError, match="not a GGUF file"):
        quantize(tmp_path / "text", tmp_path / "x.gguf", "q4")
    out = capfd.readouterr()
    assert out.out == ""
    assert "llama_model" not in out.err
    assert set(QUANTS) == {"q4", "q4_0", "q5", "q8", "f16", "f32"}
