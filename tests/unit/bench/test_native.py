"""Watching what others have llama.cpp evaluate, and opening llama-cpp-python's own class."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import pytest

from edge_behavior.bench.native import Decode, stock_llama, watched_decodes
from edge_behavior.runtime.llama.context import ContextOptions, LlamaContext
from edge_behavior.runtime.llama.model import LlamaModel

IDS = [300, 17, 45, 260, 99, 301, 12]


def test_decodes_are_watched_and_the_function_put_back(native: LlamaModel) -> None:
    before = llama_cpp.llama_decode
    with LlamaContext(native, ContextOptions(32, 1, rows=2)) as context:
        with watched_decodes() as seen:
            context.decode(IDS[:5])
            context.decode(IDS[5:], rows=(0, 1))
        context.decode([3])
        with pytest.raises(RuntimeError), watched_decodes():
            raise RuntimeError
    assert seen == [Decode(0, 5, 1), Decode(5, 2, 2)]
    assert llama_cpp.llama_decode is before
    assert llama_cpp.llama_cpp.llama_decode is before


def test_stock_llama_leaves_the_defaults_as_they_were(bundle: Path, tmp_path: Path) -> None:
    before = llama_cpp.llama_cpp.llama_model_default_params
    stock_llama(bundle, n_ctx=32, verbose=False).close()
    with pytest.raises(ValueError, match="does not exist"):
        stock_llama(tmp_path / "none.gguf", verbose=False)
    assert llama_cpp.llama_cpp.llama_model_default_params is before
