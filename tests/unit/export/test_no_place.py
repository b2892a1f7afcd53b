"""An export of a model whose log had no places: nothing of a place in its texts, and none asked for on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import LAYOUTS, PromptLayout
from edge_behavior.export.checks import prompt_segments
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.prune.words import domain_texts
from edge_behavior.export.source import ExportSource
from edge_behavior.export.synthetic_events import synthetic_windows
from tests import helpers

CANDIDATES = CandidateSet.of(helpers.LABELS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_text_of_the_domain_names_a_place(name: str) -> None:
    layout = PromptLayout(name, places=False)
    texts = domain_texts(layout, CANDIDATES, ())
    assert texts == domain_texts(layout, CANDIDATES, ("Elsewhere Street",))
    assert prompt_segments(layout, CANDIDATES) == texts
    assert not any("unknown" in text or "place" in text for text in texts)


def test_the_gate_asks_without_places() -> None:
    layout = PromptLayout(places=False, history_length=3)
    asked = synthetic_windows(CANDIDATES, layout, ("Elsewhere",), 4)
    for history, when, place in asked:
        assert "Elsewhere" not in layout.prompt(history, when, place, CANDIDATES.labels).text


def test_the_bundle_says_so(tmp_path: Path) -> None:
    layout = PromptLayout(places=False)
    tokens = helpers.tokenizer(layout=layout)
    backbone = helpers.save(helpers.model(tokens), tokens, tmp_path / "backbone")
    source = ExportSource(backbone, None, CANDIDATES, layout, places=())
    export_gguf(source, tmp_path / "m.gguf", helpers.profile("f16", prune="on"))
    manifest = read_manifest(tmp_path / "m.gguf")
    assert manifest.layout == layout
    assert "History (day hour, behavior):" in manifest.static_prompt
    assert manifest.vocabulary is not None
    assert manifest.vocabulary["places"] == 0
