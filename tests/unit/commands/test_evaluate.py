"""`edgeb evaluate`: what it prints, what it passes on. Engines are stand-ins made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_behavior.commands.open import open_predictor
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.calibration import CalibrationMetrics
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.habits import HistoryBin
from edge_behavior.evaluation.protocols import WindowChoice
from edge_behavior.evaluation.results import (
    BundleEvaluation,
    EvaluatedDataset,
    Evaluation,
    MaskedDifference,
)
from edge_behavior.util.workspace import remember
from tests.unit.commands.conftest import document, run
from tests.unit.commands.results import FOUND, MEASURED, RESULTS, metrics


class TestEvaluate:
    @pytest.fixture
    def asked(self, module) -> dict[str, tuple[object, ...]]:
        """What was asked of the engine, by kind of model."""
        seen: dict[str, tuple[object, ...]] = {}

        def engine(kind: str) -> Any:
            def evaluate(*arguments: object) -> Evaluation:
                seen[kind] = arguments
                return FOUND

            return evaluate

        module("edge_behavior.train.evaluate_run", evaluate_run=engine("run"))
        module("edge_behavior.evaluation.bundles", evaluate_bundle=engine("bundle"))
        return seen

    def test_a_folder_is_a_run(self, asked, tmp_path):
        (tmp_path / "r").mkdir()
        assert document("evaluate", "r", "--data", "d", "--no-untuned") == json.loads(json.dumps(RESULTS))
        assert asked == {"run": (Path("r"), Path("d"), "both", "test", WindowChoice(20, 500, None, 0), ["b_tuning"])}

    def test_a_file_is_a_bundle(self, asked, tmp_path):
        (tmp_path / "m.gguf").write_bytes(b"x")
        flags = {"--protocol": "natural", "--split": "validation", "--per-user": 3, "--per-behavior": 4}
        flags |= {"--limit": 5, "--seed": 6}
        document("evaluate", "m.gguf", "--data", "d", *(word for pair in flags.items() for word in pair))
        choice = WindowChoice(per_user=3, per_behavior=4, limit=5, seed=6)
        words = (Path("m.gguf"), Path("d"), "natural", "validation", choice, open_predictor)
        assert asked == {"bundle": (*words, 0.0)}
        document("evaluate", "m.gguf", "--data", "d", "--balance", "fitted")
        assert asked["bundle"][-1] == "fitted"

    def test_a_run_has_no_balance(self, asked, tmp_path):
        (tmp_path / "r").mkdir()
        with pytest.raises(EdgebError, match="r is a run folder, and --balance is for bundles"):
            run("evaluate", "m.gguf", "r", "--data", "d", "--balance", 0.5)
        assert asked == {}

    def test_several_models_share_a_table(self, module, tmp_path):
        def run_of(path: Path, *arguments: object) -> Evaluation:
            assert arguments[-1] == ["untuned", "a_tuning", "b_tuning"]
            systems = ("untuned", "b_tuning") if path.name == "two" else ("untuned", "tuned")
            # The final model's numbers tell the runs apart.
            results = dict.fromkeys(systems, FOUND.results["untuned"]) | {systems[1]: FOUND.results["model"]}
            return replace(
                FOUND,
                results={**results, **counters},
                subject=systems[1],
                recorded=path.name == "two",
                untuned_sha256="the same",
            )

        def bundle_of(*_: object) -> Evaluation:
            return replace(
                FOUND, results={"bundle_habits": FOUND.results["model"], **counters}, subject="bundle_habits"
            )

        counters = dict.fromkeys(COUNTERS, FOUND.results["place_hour_backoff"])
        module("edge_behavior.train.evaluate_run", evaluate_run=run_of)
        module("edge_behavior.evaluation.bundles", evaluate_bundle=bundle_of)
        for name in ("two", "plain"):
            (tmp_path / name).mkdir()
        words = ("evaluate", "two", "plain", "m.gguf", "--data", "d")
        with pytest.raises(EdgebError, match=r"there is no m\.gguf"):
            run(*words)
        (tmp_path / "m.gguf").write_bytes(b"x")
        done = run(*words)
        shown = ("place+hour back-off", "untuned backbone", "two: after B-Tuning", "plain: plain fine-tuning")
        shown += ("m.gguf: habits",)
        assert sorted(shown, key=done.stdout.index) == list(shown)
        assert done.stdout.count("untuned backbone") == done.stdout.count("all systems") == 1
        assert done.stderr.count("metrics.json") == 1
        found = document(*words)
        assert set(found["systems"]) == {
            *COUNTERS,
            *("untuned", "two/b_tuning", "plain/tuned", "m.gguf/habits"),
        }
        natural = json.loads(json.dumps(RESULTS))["natural"]
        assert found["systems"]["m.gguf/habits"]["natural"] == found["systems"]["plain/tuned"]["natural"] == natural

    def test_the_last_dataset_is_the_default(self, asked, tmp_path):
        (tmp_path / "data").mkdir()
        remember("dataset", tmp_path / "data")
        document("evaluate", "m.gguf")
        assert asked["bundle"][1] == tmp_path / "data"

    def test_for_people_a_table_per_protocol(self, asked):
        out = run("evaluate", "m.gguf", "--data", "d").stdout
        for words in ("natural windows", "balanced windows", "place+hour back-off", "untuned", "model", "Prec_w"):
            assert words in out
        assert f"{metrics(1).overall:.3f}".lstrip("0") in out

    def test_a_bundles_sources_come_last_and_in_order(self, module):
        bins = [HistoryBin(5, 10, 50, 4, {"model": 0.1, "habits": 0.2})]
        systems = {"bundle_fused": 7, "bundle_habits": 1, "bundle_model": 8, "last_mode": 9}
        calibrated = CalibrationMetrics.from_dict(MEASURED)
        found = BundleEvaluation(
            results={name: {"natural": metrics(seed)} for name, seed in systems.items()},
            subject="bundle_habits",
            dataset=EvaluatedDataset("d", "f", False),
            source="habits",
            by_history={"natural": bins},
            masked_differs=MaskedDifference(0.025, 200),
            calibration={"natural": {"model": calibrated, "habits": calibrated}},
            balance={"model": 0.25, "habits": 0.0},
        )
        module("edge_behavior.evaluation.bundles", evaluate_bundle=lambda *arguments: found)
        done = run("evaluate", "m.gguf", "--data", "d", "--protocol", "natural")
        assert "d is not the dataset that m.gguf was trained on" in done.stderr
        out = done.stdout
        names = (
            "mode of last 20",
            "bundle: model",
            "bundle: habits",
            "bundle: both fused",
            "5–9",
            "calibration, natural",
            "balance between frequent and rare behaviors: model 0.25, habits 0",
            "predicts with habits",
        )
        assert [name for name in names if name in out] == list(names)
        assert sorted(names, key=out.index) == list(names)
        words = " ".join(out.split())
        assert "2.5% of 200 windows" in words
        assert "before → after .210 → .040 .210 → .040" in words
        assert "prediction set 0.9: covers / candidates .910 / 3.2" in words
        others = {name: {"natural": metrics(seed).to_dict()} for name, seed in systems.items() if seed != 1}
        expected = {
            "source": "habits",
            "balance": {"model": 0.25, "habits": 0.0},
            "accelerator": None,
            "natural": metrics(1).to_dict(),
            "baselines": others,
            "by_history": {
                "natural": [{"from": 5, "to": 10, "windows": 50, "users": 4, "accuracy": {"model": 0.1, "habits": 0.2}}]
            },
            "masked_differs": {"share": 0.025, "windows": 200},
            "calibration": {"natural": {"model": MEASURED, "habits": MEASURED}},
            "dataset": {"path": "d", "fingerprint": "f", "own": False},
        }
        assert document("evaluate", "m.gguf", "--data", "d") == json.loads(json.dumps(expected))
