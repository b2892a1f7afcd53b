"""Contexts beside a LiteRT bundle, with PyTorch in place of converter, compiler and NPU: written, gated, refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.npu_chips import chosen_chips
from edge_behavior.bundle.npu_folder import NPU_FILE, NpuFolder, npu_folder, read_npu
from edge_behavior.commands.shown.export_report import show_report
from edge_behavior.errors import EdgebError
from edge_behavior.export import scratch
from edge_behavior.export.litert.pipeline import export_litert
from edge_behavior.export.npu import compiler, pipeline
from edge_behavior.export.npu.gate import NpuParityError
from edge_behavior.export.npu.options import NpuOptions
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.runtime.ranker import Ranker
from tests import helpers
from tests.npu_files import StandInNpu
from tests.unit.export.litert.conftest import OPTIONS, TWO, Exported

EVENING = NpuOptions(chosen_chips("sm8650"))
ENFORCED = {"windows": 6, "per_behavior": 0, "max_flips": 1.0, "max_kl": 0.5}


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
    assert "int8 weights, calls of up to 16 tokens, compiled by ai_edge_litert" in said


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
        for context in report.npu.contexts:
            assert context.parity is not None
            assert context.parity["cpu"]["max_log_prob"] > 1

    def test_what_the_emulator_does_not_take(self, source: ExportSource, tmp_path: Path, npu: StandInNpu) -> None:
        npu.refused = {"sm8650"}
        out = tmp_path / "mine.tflite"
        report = export_litert(source, out, OPTIONS, helpers.profile(parity=ENFORCED), npu=TWO)
        assert report.npu is not None
        assert [context.parity is None for context in report.npu.contexts] == [True, False]
        with Predictor.load(out, prefix_cache=False, accelerator="npu-emulated") as emulated:
            assert "emulating v79" in emulated._ranker.backend.fingerprint

    def test_an_evening_with_the_cache_kept(
        self, source: ExportSource, tmp_path: Path, npu: StandInNpu, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By default; the bar's total, from which the time left follows, is the number of calls."""
        totals = list[tuple[str, float, list[float]]]()

        @contextmanager
        def bar(description: str, total: float) -> Iterator[Callable[..., None]]:
            totals.append((description, total, []))
            yield lambda amount=1: totals[-1][2].append(amount)

        monkeypatch.setattr(pipeline, "progress_bar", bar)
        out = tmp_path / "mine.tflite"
        report = export_litert(source, out, OPTIONS, helpers.profile(parity=ENFORCED), npu=EVENING)
        assert report.npu is not None
        parity = report.npu.contexts[0].parity
        assert parity is not None
        _, total, done = next(shown for shown in totals if shown[0] == "Emulating the NPU")
        # Two more for the known rows.
        assert total == sum(done) == parity["calls"] + 2
        assert parity["windows"] == 5
        trie = Ranker(verify_bundle(out), LiteRtBackend(out, LiteRtRunOptions(512, 1))).encoder.trie
        windows = 5 * len(trie.evaluated)
        # The first one pays for its prompt.
        assert windows < parity["tokens"] < windows + 500

    def test_nothing_is_compared(self, source: ExportSource, tmp_path: Path, npu: StandInNpu) -> None:
        """Only where it is asked for, and what is shipped then says so."""
        out, none = tmp_path / "mine.tflite", replace(EVENING, windows=0)
        with pytest.raises(EdgebError, match="--npu-windows 0 would write contexts that nothing was compared of"):
            export_litert(source, out, OPTIONS, helpers.profile(parity=ENFORCED), npu=none)
        assert list(tmp_path.iterdir()) == []
        npu.noise = 90.0
        report = export_litert(source, out, OPTIONS, helpers.profile(), npu=none)
        assert report.npu is not None
        assert report.npu.contexts[0].parity is None
        # Known rows are compared all the same, by the bundle's own tolerance.
        with pytest.raises(EdgebError, match="computes other answers"):
            Predictor.load(out, accelerator="npu-emulated")
        npu.noise = 0.0
        Predictor.load(out, prefix_cache=False, accelerator="npu-emulated").close()

    def test_float16_beside_8_bits(
        self, source: ExportSource, tmp_path: Path, npu: StandInNpu, in_torch: list[tuple[str, Any]]
    ) -> None:
        out = tmp_path / "mine.tflite"
        report = export_litert(source, out, OPTIONS, helpers.profile(), npu=replace(TWO, quant="f16"))
        assert report.npu is not None
        assert (report.npu.quantization, report.quantization) == ("f16", "int8")
        assert [kind for kind, _ in in_torch] == ["convert", "convert", "quantize"]
        for context in report.npu.contexts:
            assert context.parity is not None
            # PyTorch's own weights.
            assert context.parity["reference"]["mean_kl"] < context.parity["cpu_reference"]["mean_kl"] / 10

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

    def test_no_room_on_the_disk(
        self, source: ExportSource, tmp_path: Path, npu: StandInNpu, in_torch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Contexts need room beside the bundle's: with as much as that takes alone, nothing begins."""
        needed = list[float]()

        def refuse(folder: Path, bytes_: float) -> None:
            needed.append(bytes_)
            raise EdgebError("no room")

        out = tmp_path / "mine.tflite"
        with monkeypatch.context() as patch:
            patch.setattr("edge_behavior.export.litert.pipeline.require_space", refuse)
            for contexts in (None, TWO):
                with pytest.raises(EdgebError, match="no room"):
                    export_litert(source, out, OPTIONS, helpers.profile(), npu=contexts)
        alone, both = needed
        assert both > alone
        free = SimpleNamespace(free=(alone + both) / 2 + scratch.SPARE_BYTES)
        monkeypatch.setattr("edge_behavior.export.scratch.shutil.disk_usage", lambda _: free)
        self.refused(source, out, in_torch, "export needs .*, .* are free")

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
