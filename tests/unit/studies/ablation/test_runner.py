"""Plans are run once, go on after an interruption, and survive a run that fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.metrics import BehaviorMetrics
from edge_behavior.evaluation.results import RunMetrics
from edge_behavior.studies.ablation.folder import AblationFolder, Asked
from edge_behavior.studies.ablation.report import write_ablation
from edge_behavior.studies.ablation.studies import AUXILIARY
from edge_behavior.studies.ablation.summary import SeedStatistic
from edge_behavior.studies.runs.runner import planned_work, run_plan
from edge_behavior.train import pipeline
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder, write_json
from edge_behavior.train.run.metrics import write_metrics
from edge_behavior.train.trainer.precision import Computing
from tests.unit.studies.ablation.conftest import metrics_of

Execute = Callable[[Recipe, Path, Path], RunFolder]
ONLY = ("method", "confusion")
# full, as-printed, sft, none.
PER_SEED = 4


def asked(data: Path, base: Recipe, **fields: Any) -> Asked:
    return replace(Asked(base, data, Dataset.open(data).fingerprint, ONLY, (0, 1), {}), **fields)


def recall_of(recipe: Recipe) -> float:
    """A synthetic result: SFT is worse than DPO, seed 1 a little better than seed 0."""
    return {"dpo": 0.5, "sft": 0.3, "none": 0.2}[recipe.b_tuning.method] + 0.1 * recipe.seed


def fake(done: list[str], fail: Callable[[str], Exception | None] = lambda _: None) -> Execute:
    """Finishes a run's stages without training."""

    def execute(recipe: Recipe, dataset: Dataset, out: Path) -> RunFolder:
        run, candidates = RunFolder.open(out), dataset.candidates
        if run.done("backbone") is None:
            (out / "backbone").mkdir()
            (out / "backbone" / "model.safetensors").write_bytes(b"weights")
            run.finish("backbone", {"seconds": 1.0})
        error = fail(out.name)
        if error is not None:
            raise error
        recall = recall_of(recipe)
        rows = [BehaviorMetrics(label, "tail", 1, recall, None, 0) for label in candidates.labels]
        held = dict.fromkeys(("natural", "balanced"), metrics_of(recall, rows))
        names = ("untuned", "a_tuning", "b_tuning")
        counters = ("most_frequent", "last_mode", "markov_1", "hour_mode", "place_hour_backoff")
        found = RunMetrics(dict.fromkeys(names, held), dict.fromkeys(counters, held), 0.01, recipe.seed)
        write_metrics(run, found)
        run.finish("a_tuning", {"seconds": 1.0, "conversations_per_epoch": 4})
        run.finish("b_tuning", {"seconds": 1.0, "best_step": 0 if recipe.seed else 3})
        run.finish("report", {})
        done.append(out.name)
        return run

    return execute


@pytest.fixture
def folder(tmp_path: Path) -> AblationFolder:
    return AblationFolder(tmp_path / "out")


def test_an_interrupted_plan_goes_on(data: Path, recipe: Recipe, folder: AblationFolder) -> None:
    plan = folder.ask(asked(data, recipe)).plan()
    assert len(plan.runs) == 2 * PER_SEED
    third = plan.runs[2].name
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_plan(
            plan.runs,
            data,
            folder,
            "edgeb ablate",
            fake(done, lambda name: KeyboardInterrupt() if name == third else None),
        )
    assert done == [run.name for run in plan.runs[:2]]
    needed = planned_work(plan.runs, Dataset.open(data).fingerprint, folder)
    assert needed.finished == 2
    # The first seed's backbone is there; the other seed's is not.
    assert (needed.stages["backbone"].left, needed.stages["backbone"].unshared) == (1, 6)
    summary = write_ablation(folder)
    assert set(summary.missing) == {run.name for run in plan.runs[2:]}
    again: list[str] = []
    assert run_plan(plan.runs, data, folder, "edgeb ablate", fake(again)) == []
    assert again == [run.name for run in plan.runs[2:]]
    assert write_ablation(folder).missing == ()
    assert run_plan(plan.runs, data, folder, "edgeb ablate", fake(again)) == []
    assert len(again) == 2 * PER_SEED - 2


def test_the_backbone_is_trained_once_per_seed(data: Path, recipe: Recipe, folder: AblationFolder) -> None:
    plan = folder.ask(asked(data, recipe)).plan()
    run_plan(plan.runs, data, folder, "edgeb ablate", fake([]))
    shared = {run.name: RunFolder.open(folder.run_path(run.name)).done("backbone") for run in plan.runs}
    assert {name for name, report in shared.items() if "copied_from" not in (report or {})} == {
        "full-seed0", "full-seed1",
    }  # fmt: skip


def test_all_runs_compute_in_the_precision_of_the_first(
    data: Path, recipe: Recipe, folder: AblationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def trial(*_: object) -> Computing:
        tried.append("bfloat16" if not tried else "float32")
        return Computing(tried[-1], "it was tried")

    monkeypatch.setattr(pipeline, "chosen_dtype", trial)
    monkeypatch.setattr(pipeline, "run_stages", lambda *_: None)
    run_plan(folder.ask(asked(data, recipe)).plan().runs, data, folder, "edgeb ablate")
    states = [run.state.computing for run, _ in folder.started_runs()]
    assert len(states) == 2 * PER_SEED
    assert [None if state is None else state.dtype for state in states] == ["bfloat16"] * len(states)
    assert len(tried) == 1


def test_a_failed_run_is_told_and_the_others_go_on(data: Path, recipe: Recipe, folder: AblationFolder) -> None:
    plan = folder.ask(asked(data, recipe)).plan()
    bad = "without_dpo-seed1"
    errors = {bad: EdgebError("too few pairs", "raise F"), "method_none-seed0": ValueError("first\nsecond")}
    done: list[str] = []
    assert set(run_plan(plan.runs, data, folder, "edgeb ablate", fake(done, errors.get))) == set(errors)
    assert len(done) == 2 * PER_SEED - 2
    summary = write_ablation(folder)
    assert summary.failed == {bad: "too few pairs (raise F)", "method_none-seed0": "ValueError: first"}
    assert summary.missing == ()
    page = (folder.path / "ablation.html").read_text()
    assert f"{bad} failed: too few pairs (raise F)" in page
    assert "Traceback" in (folder.path / "errors" / f"{bad}.txt").read_text()
    assert run_plan(plan.runs, data, folder, "edgeb ablate", fake(done)) == []
    assert write_ablation(folder).failed == {}


def test_numbers_are_paired_by_seed(data: Path, recipe: Recipe, folder: AblationFolder) -> None:
    plan = folder.ask(asked(data, recipe)).plan()
    run_plan(plan.runs, data, folder, "edgeb ablate", fake([]))
    found = write_ablation(folder)
    summary = json.loads((folder.path / "ablation.json").read_text())
    assert summary == json.loads(json.dumps(found.to_dict()))
    method = next(study for study in summary["studies"] if study["name"] == "method")
    sft = next(variant for variant in method["variants"] if variant["name"] == "method_sft")
    tail = sft["metrics"]["natural"]["tail"]
    assert tail["values"] == pytest.approx([0.3, 0.4])
    # t(0.975, 1) = 12.706, deviation .0707 over the root of two: .6353.
    assert tail["interval"] == pytest.approx([0.35 - 0.6353, 0.35 + 0.6353], abs=1e-3)
    # The seeds move both alike, so the difference has no spread.
    assert sft["difference"]["natural"]["tail"]["interval"] == pytest.approx([-0.2, -0.2])
    assert sft["kept_a_tuned"] == {"runs": 1, "of": 2}
    assert [v["is_full"] for v in method["variants"]] == [True, False, False]


def test_one_seed_and_no_run_make_a_report_too(data: Path, recipe: Recipe, folder: AblationFolder) -> None:
    plan = folder.ask(asked(data, recipe, seeds=(0,))).plan()
    summary = write_ablation(folder)
    assert len(summary.missing) == len(plan.runs) == PER_SEED
    run_plan(plan.runs, data, folder, "edgeb ablate", fake([]))
    summary = write_ablation(folder)
    assert summary.full.metrics["natural"]["tail"] == SeedStatistic(0.5, None, (0.5,))
    assert "there is no interval" in (folder.path / "ablation.md").read_text()


def test_later_calls_add_studies_and_seeds(data: Path, recipe: Recipe, folder: AblationFolder) -> None:
    folder.ask(asked(data, recipe, seeds=(0,), studies=("method",)))
    folder.ask(asked(data, recipe, seeds=(0, 1), studies=("components",)))
    later = folder.ask(asked(data, recipe, seeds=(0,), studies=(AUXILIARY,), auxiliary={"talk": "talk.jsonl"}))
    assert (later.seeds, later.studies) == ((0, 1), ("components", "method", AUXILIARY))
    assert folder.read() == later


def test_a_folder_keeps_its_recipe_dataset_and_files(data: Path, recipe: Recipe, folder: AblationFolder) -> None:
    folder.ask(asked(data, recipe, auxiliary={"talk": "talk.jsonl"}))
    other = recipe.model_copy(update={"seed": 5})
    for fields, message in (
        ({"recipe": other}, "another recipe"),
        ({"fingerprint": "x"}, "not the dataset"),
        ({"auxiliary": {"talk": "b.jsonl"}}, "--aux talk"),
    ):
        with pytest.raises(EdgebError, match=message):
            folder.ask(asked(data, recipe, **fields))


def test_what_is_no_ablation_is_left_alone(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(EdgebError, match="holds no ablation"):
        AblationFolder(tmp_path).ask(asked(data, recipe))
    with pytest.raises(EdgebError, match="holds no ablation"):
        AblationFolder(tmp_path).read()
    write_json(tmp_path / "asked.json", {"schema_version": 99})
    with pytest.raises(EdgebError, match="schema version 99"):
        AblationFolder(tmp_path).read()


def test_a_run_killed_in_its_first_moment_starts_over(data: Path, recipe: Recipe, folder: AblationFolder) -> None:
    plan = folder.ask(asked(data, recipe, seeds=(0,))).plan()
    folder.run_path("full-seed0").mkdir(parents=True)
    done: list[str] = []
    assert run_plan(plan.runs, data, folder, "edgeb ablate", fake(done)) == []
    assert "full-seed0" in done
