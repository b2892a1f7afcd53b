"""The predictor on contexts for an NPU, emulated by PyTorch: what it answers, and what it refuses to load."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
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
from edge_behavior.bundle.npu_folder import NPU_FILE, npu_folder, read_npu
from edge_behavior.errors import EdgebError
from edge_behavior.export.litert.pipeline import export_litert
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.prediction import PredictOptions
from edge_behavior.runtime.predictor import Predictor
from tests import helpers
from tests.command import invoked
from tests.npu_files import StandInNpu
from tests.unit.export.conftest import CANDIDATES
from tests.unit.export.litert.conftest import OPTIONS, Exported


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


QUESTION = ("--no-history", "--at", "2024-03-18T20:05", "--place", "home")
