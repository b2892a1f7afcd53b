"""The importance matrix against a straightforward computation, and what it does to a quantized file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_behavior.bundle.gguf_header import GgufFile
from edge_behavior.export.gguf.importance import importance
from edge_behavior.export.gguf.quantize import quantize
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.hf.architectures import tensor_names
from tests import helpers
from tests.unit.export.conftest import llama, qwen2_tokenizer, save


@pytest.mark.parametrize("tied", [True, False])
def test_mean_squared_inputs(tied: bool) -> None:
    model: Any = llama(300, tie_word_embeddings=tied).eval()
    model.config.architectures = [type(model).__name__]
    names = tensor_names(model.config)
    # Two sequences with a common beginning of three tokens.
    sequences = [([1, 2, 3, 10, 11, 12, 13], 2), ([1, 2, 3, 20, 21, 22], 1)]
    done: list[float] = []
    found = importance(model, names, sequences, 3, done.append)
    assert sum(done) == 2
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    expected = {names[f"{name}.weight"] for name in linear if name != "lm_head"}
    output = "token_embd.weight" if tied else "output.weight"
    assert set(found) == expected | {output}

    def inputs(module: str, ids: list[int]) -> np.ndarray[Any, Any]:
        seen = []
        hook = model.get_submodule(module).register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]))
        hook.remove()
        return seen[0].double().numpy()

    for module, name in (("model.layers.1.mlp.down_proj", "blk.1.ffn_down.weight"), ("lm_head", output)):
        first, second = (inputs(module, ids[:-1]) for ids, _ in sequences)
        rows = np.concatenate([first[-2:], second[-1:]] if module == "lm_head" else [first, second[3:]])
        np.testing.assert_allclose(found[name], (rows**2).mean(0), rtol=1e-4)


def test_nothing_asked_nothing_found() -> None:
    model: Any = llama(300)
    model.config.architectures = [type(model).__name__]
    assert importance(model, tensor_names(model.config), [], 0, lambda n: None) == {}


def test_the_quantizer_heeds_it(tmp_path: Path) -> None:
    """Columns that matter are rounded better, in every tensor that has an entry."""
    tokens = qwen2_tokenizer()
    save(helpers.model(tokens, hidden=256, layers=1), tokens, tmp_path / "m")
    write_gguf(tmp_path / "m", tmp_path / "plain.gguf", "f32")
    name = "blk.0.ffn_up.weight"
    weights = np.ones(256, dtype=np.float32)
    weights[:8] = 1e4
    for out, matrix in (("without", None), ("with", {name: weights})):
        quantize(tmp_path / "plain.gguf", tmp_path / out, "q4_0", matrix)
    plain, without, within = (_matrix(tmp_path / file, name) for file in ("plain.gguf", "without", "with"))
    before, after = (np.square(found - plain)[:, :8].mean() for found in (without, within))
    assert after < 0.8 * before


def _matrix(path: Path, name: str) -> np.ndarray[Any, Any]:
    from gguf import GGUFReader, dequantize

    tensor = next(t for t in GGUFReader(path).tensors if t.name == name)
    return dequantize(tensor.data, tensor.tensor_type)


def test_kept_tensors_keep_eight_bits(tmp_path: Path) -> None:
    tokens = qwen2_tokenizer()
    save(helpers.model(tokens, hidden=256), tokens, tmp_path / "m")
    write_gguf(tmp_path / "m", tmp_path / "plain.gguf")
    quantize(tmp_path / "plain.gguf", tmp_path / "q.gguf", "q4_0", kept=(".attn_v.weight", "token_embd.weight"))
    with GgufFile(tmp_path / "q.gguf") as file:
        kinds = {t.name: t.kind for t in file.tensor_table().tensors}
    eight, four = 8, 2
    assert kinds["token_embd.weight"] == kinds["blk.0.attn_v.weight"] == kinds["blk.1.attn_v.weight"] == eight
    assert kinds["blk.0.attn_q.weight"] == kinds["blk.1.ffn_up.weight"] == four
