"""`edgeb export` and `inspect`: what they print, pass on and remember. The export is a stand-in made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.cli import app
from edge_behavior.core.balance import FittedBalance
from edge_behavior.core.calibration import CalibrationSet
from edge_behavior.errors import EdgebError
from edge_behavior.export.fits import FitReport
from edge_behavior.export.parity.gate import (
    Accuracies,
    Difference,
    ParityError,
    ParityReport,
    Recovery,
    StageParity,
)
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.prune.check import Pruning
from edge_behavior.export.prune.vocabulary import PrunePlan
from edge_behavior.export.report import ExportReport
from edge_behavior.util.workspace import recall, remember
from tests.unit.commands.conftest import MANIFEST, document, run
from tests.unit.commands.results import BALANCED, CALIBRATED


class Chosen(NamedTuple):
    """What was asked to be exported; a dataset called "other" is not the run's own."""

    path: Path
    stage: str
    data: Path | None

    @property
    def own_data(self) -> bool:
        return self.data != Path("other")


class TestExport:
    @pytest.fixture
    def asked(self, module) -> list[tuple[object, ...]]:
        seen: list[tuple[object, ...]] = []

        def export_gguf(source: object, out: Path, profile: Any, force: bool) -> ExportReport:
            seen.append((source, out, profile, force))
            out.write_bytes(b"x")
            pruning = Pruning(profile.prune, PrunePlan(np.arange(4736), 151_936, 4, 128, 4116, {}))
            if profile.prune == "auto":
                pruning = Pruning(profile.prune, None, "predictions change")
            habits = FitReport(profile.habits, reason="too few users")
            if profile.habits == "on":
                found = {name: {"accuracy": a} for name, a in (("model", 0.31), ("habits", 0.5), ("fused", 0.52))}
                habits = habits.done({"default": "fused", "measured": found})
            calibration = FitReport(profile.calibrate, reason="fewer users still")
            if profile.calibrate == "on":
                calibration = calibration.done(CALIBRATED)
            balance = FitReport(profile.calibrate, reason="no counts")
            if profile.calibrate == "on":
                balance = balance.done(BALANCED)
            population = FitReport(profile.population, reason="no five users")
            if profile.population == "on":
                dropped = {"last_two_place_hour": 12}
                population = population.done({"contexts": 2456, "users": 3502, "bytes": 62_308, "dropped": dropped})
            shares, moved = Accuracies(0.5, 0.6, None, 0.125), Difference(0.021, 0.0034, 0.01, 0.4)
            parity = ParityReport(
                windows=9,
                natural=9,
                balanced=0,
                held_out=True,
                reference=shares,
                stages={"quantize": StageParity(moved, shares, moved, 3)},
                limits={},
                exceeded=[] if profile.parity.enforce else ["KL 3"],
                tried={"q4_0": ["KL 2"]},
                recovery=Recovery((), (".attn_v.weight",)),
            )
            if out.name == "bad.gguf":
                raise ParityError("Q4_K_M", replace(parity, exceeded=["KL 5"]))
            return ExportReport(
                bundle=out,
                bytes=1_500_000,
                architecture="qwen2",
                quantization="Q4_K_M",
                parameters=1000,
                pruning=pruning,
                population=population,
                habits=habits,
                calibration=calibration,
                balance=balance,
                segments_checked=12,
                parity=parity,
                logit_difference={},
                logit_scale=1.0,
                seconds={},
                tensor_types={"Q4_K": 3, "F32": 2},
            )

        module("edge_behavior.export.gguf.pipeline", export_gguf=export_gguf)
        module("edge_behavior.export.run_source", run_source=Chosen)
        return seen

    def test_flags(self, asked, tmp_path):
        words = ["export", "runs/x", "--quant", "q8", "--out", "m.gguf", "--stage", "a_tuning", "--force"]
        words += ["--data", "d", "--prune", "on", "--extra-tokens", "5", "--no-habits", "--no-calibrate"]
        words += ["--no-population"]
        assert document(*words)["bundle"] == "m.gguf"
        source = (tmp_path / "runs" / "x", "a_tuning", Path("d"))
        (found,) = asked
        assert found == (source, Path("m.gguf"), found[2], True)
        assert found[2] == ExportProfile(
            quant="q8", prune="on", extra_tokens=5, habits="off", calibrate="off", population="off"
        )
        assert recall("bundle") == tmp_path / "m.gguf"

    def test_another_dataset_than_the_runs_is_said(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        for data, said in (("other", True), ("d", False)):
            done = run("export", "runs/x", "--data", data)
            assert (f"{data} is not the dataset that" in done.stderr) is said

    def test_bare_takes_the_last_run(self, asked, tmp_path):
        (tmp_path / "runs" / "x").mkdir(parents=True)
        remember("run", tmp_path / "runs" / "x")
        document("export", "--quant", "q4")
        source = (tmp_path / "runs" / "x", "b_tuning", None)
        assert asked == [(source, tmp_path / "runs" / "x-q4.gguf", ExportProfile(), False)]

    def test_for_people(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        out = run("export", "runs/x").stdout
        assert "1.5 MB" in out
        assert "3 Q4_K, 2 F32" in out
        assert "tokens kept" not in out
        assert "not q4_0: KL 2" in out
        assert "kept at 8 bits for the tail: attn_v" in out
        for cell in ("quantize", "2.1%", "0.0034", "0.125", "9 validation windows"):
            assert cell in out
        assert (
            "vocabulary: 4736 of 151936 tokens kept, 4 places covered"
            in run("export", "runs/x", "--prune", "on").stdout
        )

    def test_beyond_the_limits(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        failed = CliRunner().invoke(app, ["export", "runs/x", "--out", "bad.gguf"])
        assert failed.stdout == ""
        assert "quantize" in failed.stderr
        assert isinstance(failed.exception, ParityError)
        assert (failed.exception.exit_code, failed.exception.hint[-12:]) == (1, "--allow-loss")
        assert failed.exception.message == "Q4_K_M changes the predictions: KL 5"
        accepted = run("export", "runs/x", "--allow-loss")
        assert "beyond the limits: KL 3" in accepted.stderr

    def test_profiles(self, asked, tmp_path):
        (tmp_path / "mine.yaml").write_text("quant: q5\nparity: {max_kl: 0.5}\n")
        document("export", "runs/x", "--profile", "mine.yaml", "--out", "a.gguf")
        document("export", "runs/x", "--profile", "phone-cpu", "--quant", "q8", "--out", "a.gguf")
        assert (asked[0][2].quant, asked[0][2].parity.max_kl) == ("q5", 0.5)
        assert asked[1][2] == ExportProfile(quant="q8")

    def test_the_population_is_shown(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        out = " ".join(run("export", "runs/x", "--population").stdout.split())
        assert "population: 2,456 contexts of 3,502 users, 62.3 kB" in out
        assert "no room for contexts: 12 of last_two_place_hour" in out

    def test_fitted_habits_are_shown(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        out = " ".join(run("export", "runs/x", "--habits").stdout.split())
        assert "predicts with fused; accuracy on validation windows: model 0.310, habits 0.500, fused 0.520" in out

    def test_the_calibration_of_the_default_is_shown(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        out = " ".join(run("export", "runs/x", "--calibrate").stdout.split())
        assert "model: temperature 1.50, bias medium -0.10, tail +0.40; calibration error .210 → .040" in out
        assert "habits: temperature" not in out
        assert "800 validation windows of 40 users" in out

    def test_the_balance_of_the_default_is_shown(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        out = run("export", "runs/x", "--calibrate").stdout
        for line in (
            "model: fitted balance 0.3: mean recall .400 → .450, accuracy .500 → .470, cross-validated",
            "  balance           0  0.25  0.3*   0.5",
            "  accuracy       .500  .490  .480  .400",
            "  mean recall    .400  .440  .460  .450",
            "    tail            –     –     –     –",
            "by 300 validation windows of 20 users, as they occur",
        ):
            assert line in out
        assert "habits: fitted" not in out

    def test_what_auto_left_undone_is_said_on_stderr(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        err = run("export", "runs/x", "--json").stderr
        assert "edgeb: vocabulary not pruned: predictions change" in err
        assert "habits are not fitted: too few users" in err
        assert "calibration is not fitted: fewer users still" in err
        assert "balance is not fitted: no counts" in err
        assert "no table of the population: no five users" in err
        quiet = ("--prune", "off", "--no-habits", "--no-calibrate", "--no-population")
        assert run("export", "runs/x", *quiet).stderr == ""

    def test_unknown_format(self, asked):
        with pytest.raises(EdgebError, match="unknown format 'ggml'"):
            run("export", "runs/x", "--format", "ggml")
        assert asked == []


class TestInspect:
    @pytest.fixture(autouse=True)
    def bundle(self, monkeypatch):
        monkeypatch.setattr("edge_behavior.bundle.bundle.verify_bundle", lambda path: MANIFEST)

    def test_json_is_the_manifest(self):
        found = document("inspect", "m.gguf")
        assert Manifest.from_json(json.dumps(found)) == MANIFEST

    def test_for_people(self):
        out = run("inspect", "m.gguf").stdout
        for words in ("hashes verified", "qwen2", "Q4_K_M", "買い物", "history_length: 20"):
            assert words in out

    def test_a_calibration_is_a_few_lines(self, monkeypatch):
        manifest = replace(MANIFEST, calibration=CalibrationSet.from_dict(CALIBRATED, ("model", "habits")))
        monkeypatch.setattr("edge_behavior.bundle.bundle.verify_bundle", lambda path: manifest)
        out = " ".join(run("inspect", "m.gguf").stdout.replace("│", " ").split())
        for words in (
            "model: temperature 1.50, bias medium -0.10, tail +0.40; calibration error .210 → .040",
            "prediction sets 0.9: cover .910 with 3.2 candidates",
            "suggest 0.5/0.9: right .570/– in 60%/0% of windows",
            "habits: temperature 1.00, bias none",
        ):
            assert words in out
        assert "'coverage'" not in out
        assert document("inspect", "m.gguf")["calibration"] == CALIBRATED

    def test_a_balance_is_a_few_lines(self, monkeypatch):
        held = FittedBalance.from_dict(BALANCED, ("model", "habits"))
        for balance, words in (
            (held, ("model: fitted balance 0.3: mean", "habits: fitted balance 0: no other finds more", "0.3*")),
            (FittedBalance(held.fitted), ("model: fitted balance 0.3", "habits: fitted balance 0")),
        ):
            manifest = replace(MANIFEST, balance=balance)
            monkeypatch.setattr("edge_behavior.bundle.bundle.verify_bundle", lambda path, made=manifest: made)
            out = " ".join(run("inspect", "m.gguf").stdout.replace("│", " ").split())
            assert [word for word in words if word in out] == list(words)
            assert "'fitted'" not in out
            assert document("inspect", "m.gguf")["balance"] == balance.to_dict()
