"""`edgeb train`: what it prints, passes on and remembers. The trainer is a stand-in made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.results import (
    RunMetrics,
)
from edge_behavior.train.methods import DEFAULT_METHOD, DEFAULT_REASON
from edge_behavior.train.recipe import Recipe, load_recipe
from edge_behavior.util.workspace import recall, remember
from tests.extras import needs_torch
from tests.unit.commands.conftest import document, run
from tests.unit.commands.results import FOUND, metrics


@needs_torch
class TestTrain:
    @pytest.fixture
    def asked(self, module, tmp_path, monkeypatch) -> list[tuple[Any, ...]]:
        seen: list[tuple[Any, ...]] = []
        models = {name: {"natural": metrics(1), "balanced": metrics(2)} for name in ("untuned", "a_tuning", "b_tuning")}
        found = RunMetrics(models, {"last_mode": FOUND.results["untuned"]}, 0.01, 0)

        def train(recipe: Recipe, dataset: Path, out: Path, resume: bool, began: Callable[[], None]) -> Any:
            began()
            seen.append((recipe, dataset, out, resume))
            out.mkdir(parents=True, exist_ok=True)
            return SimpleNamespace(path=out)

        module("edge_behavior.train.pipeline", train=train)
        module("edge_behavior.train.run.metrics", read_metrics=lambda made: found)
        module("edge_behavior.train.plan.plan", plan=self.plan)
        module("edge_behavior.train.first_look", first_look=lambda settings: None)
        (tmp_path / "data").mkdir()
        # These tests see which path was opened, not what it holds.
        monkeypatch.setattr(Dataset, "open", lambda path: path)
        return seen

    def test_flags(self, asked, tmp_path):
        made = document(
            "train", "--recipe", "tiny", "--data", "data", "--out", "r", "--set", "seed=5", "--set", "lora.rank=2"
        )
        assert asked == [(load_recipe("tiny", ["seed=5", "lora.rank=2"]), Path("data"), Path("r"), False)]
        assert made["run"] == "r"
        assert set(made["metrics"]) == {"models", "counters", "anchor_threshold", "seed"}
        assert recall("run") == tmp_path / "r"

    def test_bare(self, asked, tmp_path):
        remember("dataset", tmp_path / "data")
        document("train")
        recipe, data, out, resume = asked[0]
        assert (recipe, data, resume) == (load_recipe("qwen2-1.5b"), tmp_path / "data", False)
        assert (out.parent, out.name.endswith("-data")) == (Path("runs"), True)

    def test_a_recipe_file_names_the_run(self, asked, tmp_path):
        (tmp_path / "mine.yaml").write_text("seed: 3\n")
        document("train", "--recipe", "mine.yaml", "--data", "data")
        recipe = asked[0][0]
        assert recipe == load_recipe("mine.yaml")
        assert (recipe.name, recipe.seed, recipe.method) == ("mine", 3, DEFAULT_METHOD)
        assert asked[0][2] == Path("runs/mine-data")

    def test_a_method_that_nobody_named_is_said(self, asked, tmp_path):
        for more in ((), ("--dry-run",)):
            said = run("train", "--recipe", "tiny", "--data", "data", *more).stderr
            assert f"method {DEFAULT_METHOD}, " in said
            assert f"the default: {DEFAULT_REASON}" in said
        (tmp_path / "mine.yaml").write_text("method: plain\n")
        for words in (
            ("--recipe", "mine.yaml"),
            ("--recipe", "tiny", "--method", "plain"),
            ("--recipe", "tiny", "--set", "method=plain"),
        ):
            assert "the default" not in run("train", *words, "--data", "data").stderr
            assert asked[-1][0].method_title == "plain"
        assert asked[-2][0] == asked[-1][0]

    def test_a_resumed_run_says_no_default_and_may_be_asked_for_a_method(self, asked, tmp_path):
        recipe = load_recipe("tiny", ["method=two-stage"])
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        words = ("train", "--resume", "--out", "r", "--data", "data")
        assert "the default" not in run(*words).stderr
        run(*words, "--method", "two-stage-v1")
        assert [found[0].method_title for found in asked] == ["two-stage", "two-stage-v1"]

    def test_resume_takes_the_runs_recipe(self, asked, tmp_path):
        recipe = load_recipe("tiny", ["seed=9"])
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        document("train", "--resume", "--out", "r", "--data", "data")
        remember("run", tmp_path / "r")
        document("train", "--resume", "--data", "data")
        assert asked == [(recipe, Path("data"), Path("r"), True), (recipe, Path("data"), tmp_path / "r", True)]

    def test_for_people(self, asked):
        out = run("train", "--recipe", "tiny", "--method", "two-stage", "--data", "data", "--out", "r").stdout
        for words in (
            "natural windows",
            "balanced windows",
            "after B-Tuning",
            "mode of last 20",
            "report.html",
            "tail",
        ):
            assert words in out

    def test_one_tuning_stage_is_one_row(self, asked):
        out = run("train", "--recipe", "tiny", "--method", "plain", "--data", "data", "--out", "r").stdout
        assert out.count("plain fine-tuning") == 2
        assert "after " not in out

    def plan(self, recipe: Recipe, dataset: Path, device_memory: str | None, processes: int | None) -> SimpleNamespace:
        need = {"weights": 3 * 2**30, "adapter": 2**28, "activations": 2**30, "logits": 2**29, "working": 0}
        stages = {"a_tuning": {**need, "total": sum(need.values())}, "scoring": {"scoring": 2**30, "total": 2**32}}
        memory = {"stages": stages, "available": 2**34, "device_name": "this CPU"}
        time = {"stages": {"a_tuning": 9000.0, "scoring": 42.0}, "total": 9042.0, "measured_on": "CPU, 2 threads"}
        refusal = EdgebError("training needs more", "set x=1") if device_memory == "1GiB" else None
        shown = {
            "recipe": recipe.name,
            "a_tuning_steps": 1234,
            "processes": processes,
            "memory": memory,
            "time": None if device_memory else time,
            "refusal": refusal and {"message": refusal.message, "hint": refusal.hint},
        }
        return SimpleNamespace(document=lambda: shown, refusal=refusal)

    def test_dry_run_trains_nothing(self, asked, tmp_path):
        words = ["train", "--recipe", "tiny", "--data", "data", "--out", "r", "--dry-run"]
        assert document(*words) == self.plan(load_recipe("tiny"), Path("data"), None, None).document()
        assert document(*words, "--processes", "4")["processes"] == 4
        out = run(*words).stdout
        for shown in ("1,234", "3.00", "4.75", "this CPU has 16.0 GiB", "2 h 30 min", "42 s", "CPU, 2 threads"):
            assert shown in out
        assert asked == []
        assert not (tmp_path / "r").exists()
        with pytest.raises(EdgebError, match="no run was given"):
            recall("run")

    def test_planning_for_another_device(self, asked):
        words = ["train", "--recipe", "tiny", "--data", "data", "--dry-run", "--device-memory"]
        assert "No time is given" in run(*words, "24GiB").stdout
        with pytest.raises(EdgebError, match="training needs more") as caught:
            run(*words, "1GiB")
        assert caught.value.hint == "set x=1"
        with pytest.raises(EdgebError, match="--device-memory is for planning"):
            run("train", "--recipe", "tiny", "--data", "data", "--device-memory", "24GiB")
        with pytest.raises(EdgebError, match="--processes is for planning"):
            run("train", "--recipe", "tiny", "--data", "data", "--processes", "2")
        assert asked == []
