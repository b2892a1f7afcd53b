"""Batches are filled up to what the kernels take at once; nothing of that is ever seen."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.backends import llama as llamacpp
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests import helpers


@pytest.fixture(scope="module")
def q8(small_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("q8") / "q8.gguf"
    source = ExportSource(small_backbone, None, CandidateSet.of(helpers.LABELS), PromptLayout())
    export_gguf(source, out, helpers.profile("q8"))
    return out


def sizes(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int], list[np.ndarray]]:
    """Tokens of every decode, tokens counted per prediction, and distributions along a session."""
    seen: list[int] = []
    plain = llamacpp.LlamaBackend._decode

    def decode(self: llamacpp.LlamaBackend, count: int) -> None:
        seen.append(count)
        plain(self, count)

    monkeypatch.setattr(llamacpp.LlamaBackend, "_decode", decode)
    events = helpers.diary(40)
    counted, found = [], []
    with Predictor.load(bundle, threads=1, prefix_cache=False) as predictor:
        session = predictor.session()
        for event in events:
            session.observe(event)
            answer = session.predict(event.time + timedelta(hours=1), event.place, 2)
            counted.append(answer.tokens_evaluated)
            whole = session.predict(
                event.time + timedelta(hours=1), event.place, None, options=PredictOptions(exhaustive=True)
            )
            by_label = {r.behavior: r.probability for r in whole.ranked}
            found.append(np.array([by_label[label] for label in helpers.LABELS]))
    return seen, counted, found


def test_same_answers(q8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        padded, counted, found = sizes(q8, patch)
    monkeypatch.setattr(llamacpp, "_TOKENS_AT_ONCE", 1)
    plain, expected_counted, expected = sizes(q8, monkeypatch)
    assert counted == expected_counted
    for p, q in zip(found, expected, strict=True):
        # Only the order of additions differs, where a batch takes another kernel.
        np.testing.assert_allclose(p, q, atol=2e-3)
    assert len(padded) == len(plain)
    assert {a - b for a, b in zip(padded, plain, strict=True)} == {0, 1, 2}
    for count, asked in zip(padded, plain, strict=True):
        assert count == asked or count % 4 == 0
        assert count % 4 in ({0, 1} if asked > 2 else {1, 2})


def test_unquantized_files_are_left_alone(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        seen, _, _ = sizes(small_bundle, patch)
    monkeypatch.setattr(llamacpp, "_TOKENS_AT_ONCE", 1)
    assert seen == sizes(small_bundle, monkeypatch)[0]
