"""Plain models and contexts: their logits, and what they refuse once closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.llama.context import ContextOptions, LlamaContext, logits
from edge_behavior.runtime.llama.model import LlamaModel

IDS = [300, 17, 45, 260, 99, 301, 12]


@pytest.fixture(scope="module")
def native(small_bundle: Path) -> Iterator[LlamaModel]:
    with LlamaModel(small_bundle) as model:
        yield model


def test_logits_by_parts_are_those_of_the_whole(native: LlamaModel) -> None:
    expected = logits(native, IDS)
    with LlamaContext(native, ContextOptions(32, 1, rows=3, flash=False)) as context:
        assert context.decode(IDS[:4]) > 0
        assert context.held == 4
        np.testing.assert_allclose(context.row(-1), expected[3], atol=2e-2)
        context.decode(IDS[4:], rows=range(3))
        np.testing.assert_allclose([context.row(i) for i in range(3)], expected[4:], atol=2e-2)
        context.keep(2)
        context.decode(IDS[2:5])
        np.testing.assert_allclose(context.row(2), expected[4], atol=2e-2)


def test_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no")
    with pytest.raises(EdgebError, match="cannot load"):
        LlamaModel(tmp_path / "x.gguf")


def test_closed_and_used_again(small_bundle: Path) -> None:
    model = LlamaModel(small_bundle)
    context = LlamaContext(model, ContextOptions(32, 1))
    context.decode(IDS)
    for opened in (context, model):
        opened.close()
        opened.close()
    for use in (
        lambda: context.decode([3]),
        lambda: context.keep(1),
        lambda: context.row(0),
        lambda: model.tokenize("a"),
        lambda: model.piece(3),
        lambda: model.ends(3),
        lambda: LlamaContext(model, ContextOptions(32, 1)),
        lambda: logits(model, IDS),
    ):
        with pytest.raises(EdgebError, match=r"is closed"):
            use()


def test_a_context_keeps_its_model(small_bundle: Path) -> None:
    context = LlamaContext(LlamaModel(small_bundle), ContextOptions(32, 1))
    assert context.decode(IDS) > 0
