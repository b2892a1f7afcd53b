"""Plain llama.cpp, and watching what others have it evaluate."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from edge_behavior.bench.native import Decode, NativeContext, NativeModel, stock_llama, watched_decodes
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.llama_file import LlamaFile

IDS = [300, 17, 45, 260, 99, 301, 12]


def test_logits_are_those_of_the_file(bundle: Path, native: NativeModel) -> None:
    with LlamaFile(bundle, n_ctx=32) as file:
        expected = file.logits(IDS)
    with NativeContext(native, 32, 1, rows=3, flash=False) as context:
        assert context.decode(IDS[:4]) > 0
        assert context.held == 4
        np.testing.assert_allclose(context.row(-1), expected[3], atol=2e-2)
        context.decode(IDS[4:], rows=range(3))
        np.testing.assert_allclose([context.row(i) for i in range(3)], expected[4:], atol=2e-2)
        context.keep(2)
        context.decode(IDS[2:5])
        np.testing.assert_allclose(context.row(2), expected[4], atol=2e-2)


def test_decodes_are_watched_and_the_function_put_back(native: NativeModel) -> None:
    before = llama_cpp.llama_decode
    with NativeContext(native, 32, 1, rows=2) as context:
        with watched_decodes() as seen:
            context.decode(IDS[:5])
            context.decode(IDS[5:], rows=(0, 1))
        context.decode([3])
        with pytest.raises(RuntimeError), watched_decodes():
            raise RuntimeError
    assert seen == [Decode(0, 5, 1), Decode(5, 2, 2)]
    assert llama_cpp.llama_decode is before
    assert llama_cpp.llama_cpp.llama_decode is before


def test_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no")
    with pytest.raises(EdgebError, match="cannot load"):
        NativeModel(tmp_path / "x.gguf")


def test_stock_llama_leaves_the_defaults_as_they_were(bundle: Path, tmp_path: Path) -> None:
    before = llama_cpp.llama_cpp.llama_model_default_params
    stock_llama(bundle, n_ctx=32, verbose=False).close()
    with pytest.raises(ValueError, match="does not exist"):
        stock_llama(tmp_path / "none.gguf", verbose=False)
    assert llama_cpp.llama_cpp.llama_model_default_params is before


def test_closed_and_used_again(bundle: Path) -> None:
    model = NativeModel(bundle)
    context = NativeContext(model, 32, 1)
    context.decode(IDS)
    for opened in (context, model):
        opened.close()
        opened.close()
    file = LlamaFile(bundle, n_ctx=32)
    file.close()
    for use in (
        lambda: context.decode([3]),
        lambda: context.keep(1),
        lambda: context.row(0),
        lambda: model.tokenize("a"),
        lambda: NativeContext(model, 32, 1),
        lambda: file.tokenize("a"),
        lambda: file.logits(IDS),
    ):
        with pytest.raises(EdgebError, match=r"is closed"):
            use()


def test_a_context_keeps_its_model(bundle: Path) -> None:
    context = NativeContext(NativeModel(bundle), 32, 1)
    assert context.decode(IDS) > 0
