"""An engine's calls, noted and made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.bench.engines.bare import open_watched
from edge_behavior.core.trie import LabelTrie
from tests import litert_files
from tests.unit.runtime.engines import IN_TORCH, LITERT, engine_of

FILES = {"llama.cpp": "bundle.gguf", "onnx": "onnx", IN_TORCH: "bundle.tflite", LITERT: "bundle.tflite"}
PROMPT = [5, 9, 200, 31, 77, 12, 8]
TRIE = LabelTrie.from_paths([[3, 4], [3, 5, 6], [7, 8]])


@pytest.fixture(autouse=True)
def stand_ins() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        litert_files.run_stand_ins(patch)
        yield


@pytest.mark.parametrize("engine", FILES)
def test_a_repetition_changes_nothing_and_makes_the_same_calls(engine: str, tmp_path: Path) -> None:
    engine_of(engine, tmp_path)
    with open_watched(tmp_path / FILES[engine], 256, 1) as (backend, calls):
        backend.prefill(PROMPT[:3])
        with calls.noting():
            root = backend.prefill(PROMPT)[0].copy()
            rows = [row.copy() for row in backend.branch(TRIE, [1, 2])[0]]
        # Not noted.
        backend.branch(TRIE, [3])
        noted = list(calls._noted)  # type: ignore[attr-defined]
        assert noted
        for _ in range(3):
            assert calls.repeat() > 0.0
        assert list(calls._noted) == noted  # type: ignore[attr-defined]
        again = backend.prefill(PROMPT)[0].copy()
        np.testing.assert_allclose(again, root, atol=1e-4)
        for row, expected in zip(backend.branch(TRIE, [1, 2])[0], rows, strict=True):
            np.testing.assert_allclose(row, expected, atol=1e-4)


def test_llamas_calls_are_its_decodes(tmp_path: Path) -> None:
    engine_of("llama.cpp", tmp_path)
    with open_watched(tmp_path / "bundle.gguf", 256, 1) as (backend, calls):
        backend.prefill(PROMPT[:3])
        with calls.noting():
            backend.prefill(PROMPT)
            backend.branch(TRIE, [1, 2])
        first, second = calls._noted  # type: ignore[attr-defined]
        assert (first.position, first.tokens, first.rows) == (3, len(PROMPT) - 3, 1)
        assert (second.position, second.tokens, second.rows) == (len(PROMPT), 2, 2)
