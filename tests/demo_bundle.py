"""A tiny calibrated bundle with labels that a careless page would stumble over, shared by the demo's tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.core.calibration import Calibration, CalibrationSet
from edge_behavior.core.candidates import GROUPS, CandidateSet
from edge_behavior.core.fusion import SOURCES, GroupWeights, Mixture
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from tests import helpers

MARKUP = "<img src=x onerror=\"document.title='pwned'\">"
RIGHT_TO_LEFT = "שיחת וידאו"
LONG = "Look Up " + "a very long recipe " * 4
LABELS = ["Video", "Video Call", MARKUP, RIGHT_TO_LEFT, "🎉 Party", "'; alert(1);//", LONG.strip(), "&lt;b&gt; Café"]
COUNTS = (900, 300, 200, 150, 100, 60, 8, 4)
LENGTH = 6


def make(folder: Path) -> Path:
    """A random model over `LABELS`, prompts of 6 events, with habits, fusion and a calibration for every source."""
    layout = PromptLayout(history_length=LENGTH)
    tokens = helpers.tokenizer(LABELS, layout)
    backbone = helpers.save(helpers.model(tokens, spread=2.0), tokens, folder / "backbone")
    plain = folder / "plain.gguf"
    export_gguf(ExportSource(backbone, None, CandidateSet.of(LABELS, COUNTS), layout), plain, helpers.profile("f32"))
    weights = dict.fromkeys(GROUPS, GroupWeights(0.3, 1.0, 0.0))
    habits = Mixture(HabitsConfig(), weights, "fused")
    calibration = Calibration(1.0, dict.fromkeys(GROUPS, 0.0), {0.8: 0.05, 0.9: 0.02}, {0.5: 0.05, 0.9: None})
    held = CalibrationSet(dict.fromkeys(SOURCES, calibration))
    out = folder / "tiny.gguf"
    write_bundle(plain, replace(read_manifest(plain), habits=habits, calibration=held), out)
    return out
