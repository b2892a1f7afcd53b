"""Contexts beside a LiteRT bundle and the predictor on them, with PyTorch in the place of converter, compiler, NPU."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.litert_file import read_litert
from edge_behavior.bundle.npu_chips import chosen_chips
from edge_behavior.bundle.npu_folder import NPU_FILE, NpuFolder, npu_folder, read_npu
from edge_behavior.commands.shown.export_report import show_report
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.litert.options import LiteRtOptions
from edge_behavior.export.litert.pipeline import export_litert
from edge_behavior.export.npu import compiler, pipeline
from edge_behavior.export.npu.gate import NpuParityError
from edge_behavior.export.npu.options import NpuOptions
from edge_behavior.export.report import ExportReport
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.predictor import Predictor
from tests import helpers
from tests.command import invoked
from tests.npu_files import StandInNpu, stand_in_npu
from tests.unit.export.conftest import CANDIDATES
from tests.unit.export.litert.conftest import export_in_torch

OPTIONS = LiteRtOptions("q8", sizes=(1, 4, 16, 64), first_sizes=(16,))
TWO = NpuOptions(chosen_chips("sm8750,sm8650"), 2)
ENFORCED = {"windows": 6, "per_behavior": 0, "max_flips": 1.0, "max_kl": 0.5}
QUESTION = ("--no-history", "--at", "2024-03-18T20:05", "--place", "home")


@dataclass(frozen=True)
class Exported:
    """A finished export, and what it asked the converter for."""

    report: ExportReport
    out: Path
    asked: list[tuple[str, Any]]


@pytest.fixture(scope="module")
def exported(tiny_base: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    source = ExportSource(tiny_base, tiny_adapter, CANDIDATES, PromptLayout("stream"))
    with pytest.MonkeyPatch.context() as patch:
        asked = export_in_torch(patch, tmp_path_factory.mktemp("models"))
        stand_in_npu(patch)
        out = tmp_path_factory.mktemp("exported") / "mine.tflite"
        return Exported(export_litert(source, out, OPTIONS, helpers.profile(), npu=TWO), out, asked)


@pytest.fixture
def npu(in_torch: Any, monkeypatch: pytest.MonkeyPatch) -> StandInNpu:
    return stand_in_npu(monkeypatch)


@pytest.fixture
def bundle(exported: Exported, tmp_path: Path, npu: StandInNpu) -> Path:
    """A copy of the bundle, with its contexts."""
    shutil.copy(exported.out, tmp_path)
    shutil.copytree(npu_folder(exported.out), tmp_path / "mine-npu")
    return tmp_path / "mine.tflite"


def test_two_chips(exported: Exported) -> None:
    report, out = exported.report, exported.out
    assert sorted(path.name for path in out.parent.iterdir()) == ["mine-npu", "mine.tflite"]
    assert sorted(path.name for path in npu_folder(out).iterdir()) == [NPU_FILE, "v75.tflite", "v79.tflite"]
    manifest = verify_bundle(out)
    found = read_npu(out, manifest.tensors_sha256)
    assert found == report.npu
    assert NpuFolder.from_json(found.to_json(), "npu.json") == found
    # One conversion more, of one signature and with the bundle's weight format.
    kinds = [kind for kind, _ in exported.asked]
    assert kinds == ["convert", "convert", "quantize", "quantize"]
    whole, narrow = (graph for kind, graph in exported.asked if kind == "convert")
    assert (narrow.sizes, narrow.first_sizes) == ((16,), ())
    assert replace(narrow, sizes=whole.sizes, first_sizes=whole.first_sizes) == whole
    assert (found.size, found.quantization) == (16, "int8")
    assert [(c.chip, c.architecture, c.operators) for c in found.contexts] == [
        ("sm8650", "v75", 9),
        ("sm8750", "v79", 9),
    ]
    for context in found.contexts:
        assert context.parity is not None
        # The same weights, in the same graph.
        assert context.parity["cpu"]["max_kl"] < 1e-6
        assert context.parity["reference"]["mean_kl"] == pytest.approx(
            context.parity["cpu_reference"]["mean_kl"], rel=1e-3
        )
        assert (context.parity["windows"], context.parity["calls"] > 2) == (2, True)
    shown = report.to_dict()["npu"]
    assert json.loads(json.dumps(shown)) == shown
    assert shown["folder"] == str(npu_folder(out))
    assert {"convert_npu", "compile_npu", "emulate_npu"} <= report.seconds.keys()


def test_the_report_names_every_context(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    show_report(exported.report)
    said = " ".join(capsys.readouterr().out.split())
    for chip in ("Snapdragon 8 Gen 3 (sm8650, v75)", "Snapdragon 8 Elite (sm8750, v79)"):
        assert f"{chip}: compiled and emulated" in said
    assert "calls of 16 tokens, compiled by ai_edge_litert" in said


def test_a_predictor_on_the_npu_answers_as_on_the_cpu(bundle: Path) -> None:
    diary = helpers.diary(12, labels=list(CANDIDATES.labels))
    with (
        Predictor.load(bundle, threads=1, prefix_cache=False) as cpu,
        Predictor.load(bundle, threads=1, prefix_cache=False, accelerator="npu-emulated") as emulated,
    ):
        assert (cpu.accelerator, emulated.accelerator) == ("cpu", "npu-emulated")
        assert "emulating v75" in emulated._ranker.backend.fingerprint
        checked = emulated.calls
        assert checked == 2
        sessions = emulated.session(), cpu.session()
        for i, event in enumerate(diary):
            if i >= 9:
                found, expected = (p.log_probs(diary[:i], event.time, event.place) for p in (emulated, cpu))
                np.testing.assert_allclose(found, expected, atol=1e-4)
                first, second = (session.predict(event.time, event.place, None) for session in sessions)
                assert [r.behavior for r in first.ranked] == [r.behavior for r in second.ranked]
            for session in sessions:
                session.observe(event)
        assert emulated.calls is not None
        assert emulated.calls > checked


def test_a_saved_state_is_the_npus_own(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefix"
    with Predictor.load(bundle, prefix_cache=folder, accelerator="npu-emulated") as emulated:
        held = len(emulated._ranker.backend.held)
        assert held
    with Predictor.load(bundle, prefix_cache=folder, accelerator="npu-emulated") as again:
        # Nothing but the known rows was evaluated.
        assert (len(again._ranker.backend.held), again.calls) == (held, 2)
    with Predictor.load(bundle, prefix_cache=folder) as cpu:
        assert cpu.calls


class TestTheGate:
    def test_what_does_not_pass_is_not_written(self, source: ExportSource, tmp_path: Path, npu: StandInNpu) -> None:
        npu.noise = 30.0
        out = tmp_path / "mine.tflite"
        with pytest.raises(NpuParityError, match=r"the NPU of sm8650 changes the predictions: .*nats") as error:
            export_litert(source, out, OPTIONS, helpers.profile(parity=ENFORCED), npu=TWO)
        assert error.value.exit_code == 1
        # The bundle is whole, and for CPUs.
        assert list(tmp_path.iterdir()) == [out]
        verify_bundle(out)
        with pytest.raises(EdgebError, match="has no contexts for an NPU"):
            Predictor.load(out, accelerator="npu-emulated")

    def test_a_loss_that_is_accepted(self, source: ExportSource, tmp_path: Path, npu: StandInNpu) -> None:
        npu.noise = 30.0
        out = tmp_path / "mine.tflite"
        report = export_litert(source, out, OPTIONS, helpers.profile(), npu=TWO)
        assert report.npu is not None
        assert all(context.parity["cpu"]["max_log_prob"] > 1 for context in report.npu.contexts)

    def test_what_the_emulator_does_not_take(self, source: ExportSource, tmp_path: Path, npu: StandInNpu) -> None:
        npu.refused = {"sm8650"}
        out = tmp_path / "mine.tflite"
        report = export_litert(source, out, OPTIONS, helpers.profile(parity=ENFORCED), npu=TWO)
        assert report.npu is not None
        assert [context.parity is None for context in report.npu.contexts] == [True, False]
        with Predictor.load(out, prefix_cache=False, accelerator="npu-emulated") as emulated:
            assert "emulating v79" in emulated._ranker.backend.fingerprint

    def test_nothing_emulated(self, source: ExportSource, tmp_path: Path, npu: StandInNpu) -> None:
        npu.refused = {"sm8650", "sm8750"}
        out = tmp_path / "mine.tflite"
        with pytest.raises(EdgebError, match="it does not run"):
            export_litert(source, out, OPTIONS, helpers.profile(), npu=TWO)
        assert list(tmp_path.iterdir()) == [out]


class TestRefusedAtOnce:
    """Nothing is converted, nothing is written."""

    def refused(self, source: ExportSource, out: Path, in_torch: Any, message: str, force: bool = False) -> None:
        before = sorted(out.parent.rglob("*"))
        with pytest.raises(EdgebError, match=message) as error:
            export_litert(source, out, OPTIONS, helpers.profile(), force, TWO)
        assert "\n" not in str(error.value)
        assert (in_torch, sorted(out.parent.rglob("*"))) == ([], before)

    def test_too_little_memory(
        self, source: ExportSource, tmp_path: Path, npu: StandInNpu, in_torch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compiler, "memory_needed", lambda size: 1 << 50)
        self.refused(
            source, tmp_path / "mine.tflite", in_torch, "compiling for the NPU needs .* of memory, .* are free"
        )

    def test_a_missing_package(
        self, source: ExportSource, tmp_path: Path, npu: StandInNpu, in_torch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing() -> None:
            raise EdgebError("the NPU needs onnxruntime-qnn, not installed", "install it")

        monkeypatch.setattr(pipeline, "find_package", missing)
        self.refused(source, tmp_path / "mine.tflite", in_torch, "the NPU needs onnxruntime-qnn")

    def test_a_place_that_is_taken(self, source: ExportSource, tmp_path: Path, npu: StandInNpu, in_torch: Any) -> None:
        (tmp_path / "mine-npu").mkdir()
        (tmp_path / "mine-npu" / "letter.txt").write_text("mine")
        for force in (False, True):
            self.refused(source, tmp_path / "mine.tflite", in_torch, "is something else", force)
        (tmp_path / "mine-npu" / "letter.txt").rename(tmp_path / "mine-npu" / NPU_FILE)
        self.refused(source, tmp_path / "mine.tflite", in_torch, "mine-npu already exists")

    def test_an_operator_left_to_the_cpu(
        self, source: ExportSource, tmp_path: Path, npu: StandInNpu, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Known only once it was compiled; still nothing is written."""

        def left(*_: object) -> None:
            raise EdgebError("the NPU of sm8650 does not take all of the graph: left to the CPU are CUMSUM")

        monkeypatch.setattr(pipeline, "compile_model", left)
        with pytest.raises(EdgebError, match="left to the CPU are CUMSUM"):
            export_litert(source, tmp_path / "mine.tflite", OPTIONS, helpers.profile(), npu=TWO)
        assert list(tmp_path.iterdir()) == []


class TestLoaded:
    def refused(self, bundle: Path, message: str) -> None:
        with pytest.raises(EdgebError, match=message) as error:
            Predictor.load(bundle, accelerator="npu-emulated")
        assert "\n" not in str(error.value)
        assert error.value.hint

    def test_a_context_that_was_cut_short_or_changed(self, bundle: Path) -> None:
        file = npu_folder(bundle) / "v75.tflite"
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        self.refused(bundle, r"v75.tflite is cut short: \d+ of \d+ bytes")
        file.write_bytes(content[:-1] + b"\0")
        self.refused(bundle, "v75.tflite does not match its hash")
        file.unlink()
        self.refused(bundle, "cannot read .*v75.tflite: No such file")

    def test_another_answer_than_at_export(self, bundle: Path, npu: StandInNpu) -> None:
        npu.noise = 5.0
        self.refused(bundle, "the emulated NPU computes other answers than the CPU in calls of 16")

    def test_another_bundles(self, bundle: Path, source: ExportSource, tmp_path: Path) -> None:
        other = tmp_path / "other.tflite"
        export_litert(source, other, replace(OPTIONS, quant="f32"), helpers.profile())
        npu_folder(bundle).rename(npu_folder(other))
        self.refused(other, "other-npu was compiled from another bundle than .*other.tflite")

    def test_a_newer_compiler(self, bundle: Path) -> None:
        path = npu_folder(bundle) / NPU_FILE
        fields = json.loads(path.read_text())
        fields["compiler"]["qnn"] = "2.52.0"
        path.write_text(json.dumps(fields))
        self.refused(bundle, "was compiled by QNN 2.52.0, the run time here is 2.51.0")

    def test_another_chip(self, bundle: Path) -> None:
        found = read_npu(bundle, read_litert(bundle).manifest.tensors_sha256)
        with pytest.raises(EdgebError, match=r"has no context for sm8450 \(v69\), but for sm8650 \(v75\), sm8750") as e:
            found.context_for(chosen_chips("sm8450")[0], npu_folder(bundle))
        assert "--npu sm8450" in e.value.hint

    def test_a_prompt_longer_than_the_cache(self, bundle: Path) -> None:
        with Predictor.load(bundle, prefix_cache=False, accelerator="npu-emulated") as emulated:
            many = [0] * (read_litert(bundle).graph.cache + 1)
            with pytest.raises(EdgebError, match="the context holds 1 to"):
                emulated._ranker.backend.prefill(many)

    def test_a_command_says_that_times_mean_nothing(self, bundle: Path) -> None:
        found = json.loads(invoked("predict", bundle, *QUESTION, "--accelerator", "npu-emulated", "--json").stdout)
        assert (found["accelerator"], found["latency_ms"]) == ("npu-emulated", None)
        assert found["calls"] > 2
        said = invoked("predict", bundle, *QUESTION, "--accelerator", "npu-emulated").stdout
        assert "on the emulated NPU" in said
        assert "calls, whose times mean nothing" in " ".join(said.split())

    def test_no_times_are_taken(self, bundle: Path) -> None:
        with pytest.raises(EdgebError, match="times of an emulated NPU say nothing of a phone"):
            invoked("bench", bundle, "--accelerator", "npu-emulated")
