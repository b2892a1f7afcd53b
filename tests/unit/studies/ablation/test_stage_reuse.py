"""A run that took over stages is the run that would have trained them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_behavior.data.dataset import Dataset
from edge_behavior.studies.ablation.studies import Variant, varied
from edge_behavior.train.pipeline import train
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.metrics import read_metrics
from edge_behavior.train.run.stage_record import finish, stage_key
from edge_behavior.train.run.stage_reuse import take_over
from edge_behavior.train.run.start import start_run

UNIFORM = Variant("uniform", "uniform", {"b_tuning.selection": "uniform"})


@pytest.fixture(scope="module")
def donor(data: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(recipe, Dataset.open(data), tmp_path_factory.mktemp("runs") / "donor")


def begun(recipe: Recipe, data: Path, out: Path) -> RunFolder:
    return start_run(recipe, Dataset.open(data), out, resume=False)


def files(folder: Path) -> dict[str, bytes]:
    found = folder.rglob("*.safetensors")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@pytest.mark.long
def test_a_shared_run_equals_an_unshared_one(data: Path, recipe: Recipe, donor: RunFolder, tmp_path: Path) -> None:
    changed = varied(recipe, UNIFORM, recipe.seed)
    alone = train(changed, Dataset.open(data), tmp_path / "alone")
    run = begun(changed, data, tmp_path / "shared")
    assert take_over(run, changed, [(donor, recipe)]) == ["backbone", "a_tuning"]
    shared = train(changed, Dataset.open(data), run.path, resume=True)
    assert read_metrics(shared) == read_metrics(alone)
    assert files(shared.path) == files(alone.path)
    assert (shared.path / "pairs.jsonl").read_text() == (alone.path / "pairs.jsonl").read_text()
    # Else the test could not see a difference.
    assert read_metrics(alone).final != read_metrics(alone).models["untuned"]

    def reports(folder: RunFolder) -> dict[str, Any]:
        return {stage: folder.done(stage) for stage in ("backbone", "a_tuning")}

    copied = {s: {k: v for k, v in (r or {}).items() if k != "copied_from"} for s, r in reports(shared).items()}
    assert copied == reports(donor)
    assert sorted(p.name for p in shared.path.iterdir()) == sorted(p.name for p in alone.path.iterdir())


def test_a_run_stands_alone_when_the_other_is_gone(
    data: Path, recipe: Recipe, donor: RunFolder, tmp_path: Path
) -> None:
    shutil.copytree(donor.path, tmp_path / "other")
    run = begun(recipe, data, tmp_path / "run")
    take_over(run, recipe, [(RunFolder.open(tmp_path / "other"), recipe)])
    shutil.rmtree(tmp_path / "other")
    held = files(run.path)
    assert {name.split("/")[0] for name in held} == {"backbone", "a_tuning"}
    assert all(files(donor.path)[name] == content for name, content in held.items())
    assert json.loads((run.path / "a_tuning" / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert (run.path / "logs" / "a_tuning").is_dir()


@pytest.mark.parametrize(
    ("changes", "seed", "stages"),
    [
        ({"b_tuning.confusion": "as-printed"}, 0, ["backbone", "a_tuning"]),
        ({"evaluation.per_user": 3}, 0, ["backbone", "a_tuning"]),
        ({"evaluation.validation_targets": 21}, 0, ["backbone"]),
        ({"a_tuning.aux_ratio": 0.0}, 0, ["backbone"]),
        ({"a_tuning.method": "none"}, 0, ["backbone"]),
        ({"lora.rank": 4}, 0, ["backbone"]),
        ({"layout.name": "prefix"}, 0, []),
        ({"backbone.pretrain_tail_contexts": False}, 0, []),
        ({}, 1, []),
    ],
)
def test_only_equal_work_is_shared(
    changes: dict[str, Any], seed: int, stages: list[str], data: Path, recipe: Recipe, donor: RunFolder, tmp_path: Path
) -> None:
    changed = varied(recipe, Variant("v", "v", changes), seed)
    run = begun(changed, data, tmp_path / "run")
    assert take_over(run, changed, [(donor, recipe)]) == stages
    assert [s for s in ("backbone", "a_tuning") if run.done(s) is not None] == stages
    # A second call finds nothing more to do.
    assert take_over(run, changed, [(donor, recipe)]) == []


def test_an_adapter_is_not_laid_on_another_backbone(
    data: Path, recipe: Recipe, donor: RunFolder, tmp_path: Path
) -> None:
    """Where training is not deterministic, equal recipes give backbones that differ."""
    run = begun(recipe, data, tmp_path / "run")
    shutil.copytree(donor.path / "backbone", run.path / "backbone")
    run.finish("backbone", {})
    weights = run.path / "backbone" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert take_over(run, recipe, [(donor, recipe)]) == []
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert take_over(run, recipe, [(donor, recipe)]) == ["a_tuning"]


def test_other_conversations_at_the_same_path_are_other_work(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    talk = tmp_path / "talk.jsonl"
    talk.write_text('{"question": "a", "answer": "b"}\n')
    changed = varied(recipe, Variant("v", "v", {"a_tuning.aux_path": str(talk)}), recipe.seed)
    other = begun(changed, data, tmp_path / "other")
    for stage, folder in (("backbone", "backbone"), ("a_tuning", "a_tuning/adapter")):
        (other.path / folder).mkdir(parents=True)
        (other.path / folder / "model.safetensors").write_bytes(b"weights")
        finish(other, stage, {}, changed)
    same = begun(changed, data, tmp_path / "same")
    assert take_over(same, changed, [(other, changed)]) == ["backbone", "a_tuning"]
    assert same.state.made == other.state.made
    talk.write_text('{"question": "a", "answer": "another"}\n')
    run = begun(changed, data, tmp_path / "run")
    assert take_over(run, changed, [(other, changed)]) == ["backbone"]


def test_another_dataset_shares_nothing(data: Path, recipe: Recipe, donor: RunFolder, tmp_path: Path) -> None:
    run = begun(recipe, data, tmp_path / "run")
    run.update(dataset={"path": str(data), "fingerprint": "other"})
    assert take_over(run, recipe, [(donor, recipe)]) == []
    assert stage_key("backbone", recipe, "one") != stage_key("backbone", recipe, "other")
