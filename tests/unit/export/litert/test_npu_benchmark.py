"""`benchmarks.npu` over stand-ins: what it writes, and that it goes on where it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmarks import npu
from edge_behavior.export.context import open_source
from edge_behavior.export.litert.options import LiteRtOptions
from edge_behavior.export.parity.samples import draw_evenings
from edge_behavior.export.source import ExportSource
from tests import helpers
from tests.npu_files import StandInNpu, stand_in_npu


@pytest.fixture
def asked(
    source: ExportSource, in_torch: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> tuple[StandInNpu, list[str]]:
    """A run of two layers in the real one's place; the NPU, and what was loaded."""
    loaded: list[str] = []

    def trained(run: Path, stage: str) -> tuple[Any, Any]:
        loaded.append(stage)
        model: Any = AutoModelForCausalLM.from_pretrained(source.base)
        return PeftModel.from_pretrained(model, str(source.adapter)).eval(), open_source(source).encoder

    monkeypatch.setattr(npu, "run_source", lambda run, stage, data: source)
    monkeypatch.setattr(npu, "trained_model", trained)
    monkeypatch.setattr(npu, "LiteRtOptions", lambda quant, **_: LiteRtOptions(quant, (1, 4, 16), (16,)))
    monkeypatch.setattr(npu, "PROFILE", helpers.profile(prune="off"))
    # More events do not fit this model.
    monkeypatch.setattr(npu, "draw_evenings", lambda source, count: draw_evenings(source, count, most=4))
    return stand_in_npu(monkeypatch), loaded


def run(monkeypatch: pytest.MonkeyPatch, work: Path, *more: str) -> dict[str, Any]:
    out = work.parent / "results"
    out.mkdir(exist_ok=True)
    monkeypatch.setattr(sys, "argv", ["npu", "--run", "run", "--work", str(work), "--out", str(out), *more])
    npu.main()
    found: dict[str, Any] = json.loads((out / "npu.json").read_text(encoding="utf-8"))
    return found


def test_it_goes_on_where_it_was(
    asked: tuple[StandInNpu, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated, loaded = asked
    first = run(monkeypatch, tmp_path / "work", "--windows", "3")
    again = run(monkeypatch, tmp_path / "work", "--windows", "3")
    assert first == again
    assert (emulated.compiled, loaded) == (["sm8650", "sm8750"], ["b_tuning"])
    # More windows are other evenings: nothing of the three is taken for one of them. Stopped in the fourth of the NPU.
    saves, save = [0], npu.Kept.save

    def stopped(kept: npu.Kept) -> None:
        save(kept)
        saves[0] += 1
        if saves[0] == 12:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(npu.Kept, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(monkeypatch, tmp_path / "work", "--windows", "7")
    more = run(monkeypatch, tmp_path / "work", "--windows", "7")
    whole = run(monkeypatch, tmp_path / "other", "--windows", "7")
    for found, expected in zip(more["windows"], whole["windows"], strict=True):
        assert {**found, "log_probs": None} == {**expected, "log_probs": None}
        for name, row in expected["log_probs"].items():
            np.testing.assert_allclose(found["log_probs"][name], row, atol=1e-4)
    held = more["emulated"]["sm8650"]
    # With the session's state from disk: the first prediction after a break does not know what labels are likely.
    assert 0 <= held["calls"] - whole["emulated"]["sm8650"]["calls"] <= 2
    assert list(more["emulated"]) == ["sm8650"]
    assert (held["windows"], held["exceeded"]) == (7, [])
    # The same weights in the same graph.
    assert held["cpu"]["mean_kl"] < 1e-6
    assert held["reference"]["mean_kl"] == pytest.approx(more["cpu_difference"]["mean_kl"], rel=1e-3)
    page = (tmp_path / "results" / "npu.md").read_text(encoding="utf-8")
    assert "| Snapdragon 8 Gen 3 (sm8650, v75) | yes | 9 |" in page
    assert "| Snapdragon 8 Elite (sm8750, v79) | no | 9 |" in page
    assert page.count("| 2024-") == 7
    assert " ms" not in page
