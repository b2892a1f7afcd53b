"""Contexts beside a LiteRT bundle and the predictor on them, with PyTorch in the place of converter, compiler, NPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_behavior.bench.diary import synthetic_diary
from edge_behavior.bench.options import DEPTHS, BenchOptions
from edge_behavior.bench.report import _npu
from edge_behavior.bench.scenarios import depth_of, npu_work
from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.litert_file import read_litert
from edge_behavior.bundle.npu_chips import chosen_chips
from edge_behavior.bundle.npu_folder import NPU_FILE, NpuFolder, npu_folder, read_npu
from edge_behavior.commands.shown.export_report import show_report
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export import scratch
from edge_behavior.export.litert.options import LiteRtOptions
from edge_behavior.export.litert.pipeline import export_litert
from edge_behavior.export.npu import compiler, pipeline
from edge_behavior.export.npu.gate import NpuParityError
from edge_behavior.export.npu.options import NpuOptions
from edge_behavior.export.report import ExportReport
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.prediction import PredictOptions
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.runtime.ranker import Ranker
from tests import helpers
from tests.command import invoked
from tests.npu_files import StandInNpu, stand_in_npu
from tests.unit.export.conftest import CANDIDATES
from tests.unit.export.litert.conftest import export_in_torch

OPTIONS = LiteRtOptions("q8", sizes=(1, 4, 16, 64), first_sizes=(16,))
TWO = NpuOptions(chosen_chips("sm8750,sm8650"), 2)
EVENING = NpuOptions(chosen_chips("sm8650"))
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
    assert "int8 weights, calls of up to 16 tokens, compiled by ai_edge_litert" in said


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


class TestAChip:
    def test_its_own_context(self, bundle: Path) -> None:
        with Predictor.load(bundle, prefix_cache=False, accelerator="npu-emulated", chip="SM8750") as emulated:
            assert "emulating v79" in emulated._ranker.backend.fingerprint

    def test_the_machines_own_npu(self, bundle: Path) -> None:
        """The same code as under emulation; which chip it is has to be said."""
        with pytest.raises(EdgebError, match="has contexts for sm8650, sm8750, and this machine's chip is not known"):
            Predictor.load(bundle, prefix_cache=False, accelerator="npu")
        with (
            Predictor.load(bundle, prefix_cache=False, accelerator="npu", chip="sm8750") as real,
            Predictor.load(bundle, prefix_cache=False, accelerator="npu-emulated", chip="sm8750") as emulated,
        ):
            assert "on v79" in real._ranker.backend.fingerprint
            event = helpers.diary(1, labels=list(CANDIDATES.labels))[0]
            found, expected = (p.log_probs([], event.time, event.place) for p in (real, emulated))
            np.testing.assert_array_equal(found, expected)
        found = json.loads(
            invoked("predict", bundle, *QUESTION, "--accelerator", "npu", "--chip", "sm8650", "--json").stdout
        )
        # Those of the chip mean something.
        assert found["accelerator"] == "npu"
        assert found["latency_ms"] > 0

    def test_a_machine_without_one(self, exported: Exported, tmp_path: Path, in_torch: Any) -> None:
        shutil.copy(exported.out, tmp_path)
        with pytest.raises(EdgebError, match="this machine has no NPU of Qualcomm's: it is ") as error:
            Predictor.load(tmp_path / "mine.tflite", accelerator="npu", chip="sm8650")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("accelerator", "chip", "message"),
        [
            ("npu-emulated", "sm8651", "there is no chip 'sm8651'"),
            ("npu-emulated", "all", "there is no chip 'all'"),
            ("npu-emulated", "sm8450", "has no context for sm8450"),
            ("cpu", "sm8650", "a chip is an NPU's, and the CPU is to evaluate"),
            (None, "sm8650", "a chip is an NPU's, and the CPU is to evaluate"),
        ],
    )
    def test_refused(self, bundle: Path, accelerator: str | None, chip: str, message: str) -> None:
        with pytest.raises(EdgebError, match=message):
            Predictor.load(bundle, accelerator=accelerator, chip=chip)


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

    def test_the_bench_counts_calls(self, bundle: Path) -> None:
        """On the CPU, and as many as the emulated NPU takes."""
        manifest, options = verify_bundle(bundle), BenchOptions(repeats=2, threads=1)
        # So few events that all fit the model's small cache.
        diary = synthetic_diary(manifest.candidates, 10, 6)
        work = npu_work(bundle, diary, options, 0.0)
        assert work is not None
        # Without time, a cycle.
        assert (work.size, {name: len(calls) for name, calls in work.calls.items()}) == (16, dict.fromkeys(DEPTHS, 1))
        work = npu_work(bundle, diary, options, 60.0)
        assert work is not None
        with Predictor.load(bundle, prefix_cache=False, accelerator="npu-emulated") as emulated:
            session = emulated.session()
            for event in diary.first_window:
                session.observe(event)
            session.prepare()
            expected = {name: list[tuple[int, int]]() for name in DEPTHS}
            for i in range(6):
                case, before = diary.case(i), emulated.calls
                session.observe(case.observed)
                found = session.predict(
                    case.when, case.place, DEPTHS[depth_of(i)], options=PredictOptions(source="model")
                )
                assert before is not None
                assert emulated.calls is not None
                expected[depth_of(i)].append((emulated.calls - before, found.tokens_evaluated))
        counted = {name: list(zip(work.calls[name], work.tokens[name], strict=True)) for name in DEPTHS}
        assert counted == expected
        calls, tokens = work.calls["session"], work.tokens["session"]
        assert all(count * work.size >= each for count, each in zip(calls, tokens, strict=True))
        shown = _npu(work)
        assert shown.rows[0][1:] == (f"{np.mean(calls):.1f}", str(max(calls)), f"{np.mean(tokens):.1f}", "2")
        assert "ms" not in " ".join(shown.heads)
        shutil.rmtree(npu_folder(bundle))
        assert npu_work(bundle, diary, options, 60.0) is None

    def test_inspected(self, bundle: Path) -> None:
        found = json.loads(invoked("inspect", bundle, "--json").stdout)
        assert [context["chip"] for context in found["npu"]["contexts"]] == ["sm8650", "sm8750"]
        said = " ".join(invoked("inspect", bundle).stdout.split())
        assert "Snapdragon 8 Gen 3 (sm8650, v75): compiled and emulated" in said
        file = npu_folder(bundle) / "v79.tflite"
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(EdgebError, match=r"v79\.tflite is cut short"):
            invoked("inspect", bundle)
        shutil.rmtree(npu_folder(bundle))
        assert "npu" not in json.loads(invoked("inspect", bundle, "--json").stdout)

    def test_no_times_are_taken(self, bundle: Path) -> None:
        with pytest.raises(EdgebError, match="times of an emulated NPU say nothing of a phone"):
            invoked("bench", bundle, "--accelerator", "npu-emulated")
