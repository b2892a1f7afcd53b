"""A finished stage's files are those it wrote, or one line says which is not; a deleted folder is made again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe, parse_recipe
from edge_behavior.train.run.folder import RunFolder, write_json
from edge_behavior.train.run.stage_record import check_made, done_stages, finish, forget_deleted, stage_key
from edge_behavior.train.stage_list import STAGE_NAMES
from tests import helpers

FILES = {
    "backbone": "backbone/model.safetensors",
    "a_tuning": "a_tuning/adapter/adapter_model.safetensors",
    "b_tuning": "b_tuning/adapter/adapter_config.json",
    "evaluation": "metrics.json",
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run whose files are a few letters."""
    run = RunFolder(tmp_path)
    helpers.begin(run, dataset={"path": "data", "fingerprint": "f"})
    for stage in STAGE_NAMES:
        if stage in FILES:
            (tmp_path / FILES[stage]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / FILES[stage]).write_text(stage)
        finish(run, stage, {"of": stage}, Recipe())
    return run


def test_a_whole_run_passes(run: RunFolder) -> None:
    assert forget_deleted(run) == []
    check_made(run)
    assert done_stages(run) == list(STAGE_NAMES)
    assert run.done("a_tuning") == {"of": "a_tuning"}


@pytest.mark.parametrize("stage", FILES)
def test_a_damaged_file_is_named(run: RunFolder, stage: str) -> None:
    (run.path / FILES[stage]).write_text("else")
    assert forget_deleted(run) == []
    with pytest.raises(EdgebError) as caught:
        check_made(run)
    assert caught.value.message == f"{run.path / FILES[stage]} is not the file that {stage} wrote"
    # What the hint says helps.
    place = caught.value.hint.split("delete ")[1].split(":")[0]
    assert Path(place) in [run.path / FILES[stage], *(run.path / FILES[stage]).parents]
    shutil.rmtree(place) if Path(place).is_dir() else Path(place).unlink()
    assert forget_deleted(run) == list(STAGE_NAMES[STAGE_NAMES.index(stage) :])
    check_made(run)


def test_a_missing_file_is_named(run: RunFolder) -> None:
    extra = run.path / "backbone" / "tokenizer.json"
    extra.write_text("{}")
    finish(run, "backbone", {}, Recipe())
    extra.unlink()
    with pytest.raises(EdgebError, match=r"tokenizer\.json is missing, which backbone wrote"):
        check_made(run)


def test_files_that_came_later_do_no_harm(run: RunFolder) -> None:
    (run.path / "backbone" / "notes.txt").write_text("mine")
    check_made(run)


def test_a_deleted_stage_takes_the_later_ones_and_their_checkpoints_with_it(run: RunFolder) -> None:
    for name in ("checkpoints", "pool", "best"):
        (run.path / "b_tuning" / name).mkdir()
    shutil.rmtree(run.path / "a_tuning")
    assert forget_deleted(run) == ["a_tuning", "b_tuning", "evaluation", "report"]
    assert done_stages(run) == ["backbone"]
    assert [p.name for p in (run.path / "b_tuning").iterdir()] == ["adapter"]
    assert set(run.state.made) == {"backbone"}
    assert forget_deleted(run) == []


def test_a_run_without_record_is_taken_as_it_is(run: RunFolder) -> None:
    write_json(run.path / "run.json", {key: value for key, value in run.state.to_dict().items() if key != "made"})
    (run.path / FILES["b_tuning"]).write_text("else")
    check_made(run)
    shutil.rmtree(run.path / "b_tuning")
    assert forget_deleted(run) == ["b_tuning", "evaluation", "report"]


def test_a_given_backbone_leaves_no_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    helpers.begin(run, backbone={"path": "some/name", "standin": False}, dataset={"path": "data", "fingerprint": "f"})
    finish(run, "backbone", {}, Recipe())
    assert forget_deleted(run) == []
    check_made(run)


def test_the_key_is_of_what_the_stage_reads() -> None:
    recipe, other = Recipe(), parse_recipe({"b_tuning": {"batch_size": 2}}, "test")
    assert stage_key("a_tuning", recipe, "f") == stage_key("a_tuning", other, "f")
    assert stage_key("b_tuning", recipe, "f") != stage_key("b_tuning", other, "f")
    talk = {"a_tuning.aux_path": "1"}
    assert stage_key("a_tuning", recipe, "f", talk) != stage_key("a_tuning", recipe, "f", {"a_tuning.aux_path": "2"})
    assert stage_key("backbone", recipe, "f", talk) == stage_key("backbone", recipe, "f")
    assert stage_key("backbone", recipe, "f", {"backbone.path": "1"}) != stage_key("backbone", recipe, "f")
