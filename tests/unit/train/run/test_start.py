"""A run begins, goes on as it was or with other settings, is refused, or takes the place of a killed start."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe, parse_recipe
from edge_behavior.train.run.folder import RunFolder, write_json
from edge_behavior.train.run.stage_record import finish
from edge_behavior.train.run.start import start_run
from tests import helpers


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    candidates = helpers.event_table([["Bar", "Video"] * 4]).candidates
    return SimpleNamespace(path=tmp_path / "data", fingerprint="abc", candidates=candidates, has_places=True)


def test_a_run_begins_and_is_found_again(dataset: Any, tmp_path: Path) -> None:
    recipe = Recipe(seed=3)
    run = start_run(recipe, dataset, tmp_path / "run", resume=False)
    assert run.recipe == recipe
    assert start_run(recipe, dataset, tmp_path / "run", resume=True).state == run.state
    with pytest.raises(EdgebError, match="already exists") as caught:
        start_run(recipe, dataset, tmp_path / "run", resume=False)
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize("left", [[], ["recipe.yaml"], [".recipe.yaml.123"], ["recipe.yaml", ".run.json.77"]])
def test_a_killed_start_leaves_a_folder_that_can_be_begun(dataset: Any, tmp_path: Path, left: list[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in left:
        (out / name).write_text("half")
    assert start_run(Recipe(), dataset, out, resume=False).candidates.labels == dataset.candidates.labels


@pytest.mark.parametrize("there", ["notes.txt", "events.parquet"])
def test_other_folders_are_left_alone(dataset: Any, tmp_path: Path, there: str) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / there).write_text("mine")
    with pytest.raises(EdgebError, match="already exists") as caught:
        start_run(Recipe(), dataset, out, resume=False)
    assert "another --out" in caught.value.hint
    assert [p.name for p in out.iterdir()] == [there]


def test_a_changed_dataset_is_refused(dataset: Any, tmp_path: Path) -> None:
    start_run(Recipe(), dataset, tmp_path / "run", resume=False)
    dataset.fingerprint = "other"
    with pytest.raises(EdgebError, match="has changed since"):
        start_run(Recipe(), dataset, tmp_path / "run", resume=True)


CHECKPOINTS = {"backbone": (), "a_tuning": ("checkpoints",), "b_tuning": ("checkpoints", "best", "pool")}


def begun(dataset: Any, out: Path, done: tuple[str, ...], during: str | None = None) -> tuple[RunFolder, Recipe]:
    """A run with some stages finished, files that stand for their weights, and checkpoints of the one in progress."""
    recipe = Recipe()
    run = start_run(recipe, dataset, out, resume=False)
    for place in ("backbone/model.safetensors", "a_tuning/adapter/w", "b_tuning/adapter/w", "metrics.json"):
        stage = "evaluation" if place == "metrics.json" else place.split("/")[0]
        if stage in done:
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            (out / place).write_text(f"{stage} made this")
    for stage in done:
        finish(run, stage, {"of": stage}, recipe)
    for name in CHECKPOINTS.get(during or "", ()):
        (out / str(during) / name / "checkpoint-3").mkdir(parents=True)
    return run, recipe


def changed(recipe: Recipe, **values: Any) -> Recipe:
    """With `a_tuning__epochs=2` and the like."""
    fields = recipe.model_dump()
    for name, value in values.items():
        section, _, field = name.rpartition("__")
        (fields[section] if section else fields)[field] = value
    return parse_recipe(fields, "test")


def scratch(run: RunFolder, stage: str) -> set[str]:
    return {name for name in CHECKPOINTS[stage] if (run.path / stage / name).is_dir()}


@pytest.mark.parametrize(
    ("done", "during", "values", "left"),
    [
        ((), "backbone", {"seed": 4, "layout__name": "prefix", "backbone__layers": 2}, set()),
        (("backbone",), "a_tuning", {"a_tuning__epochs": 2.0}, set()),
        (("backbone",), "a_tuning", {"lora__rank": 4}, set()),
        (("backbone",), "a_tuning", {"b_tuning__batch_size": 2}, {"checkpoints"}),
        (("backbone",), "a_tuning", {"a_tuning__gradient_checkpointing": True}, {"checkpoints"}),
        (("backbone",), "a_tuning", {"report_to": ["wandb"], "threads": 3}, {"checkpoints"}),
        (("backbone",), "a_tuning", {"a_tuning__micro_batch_size": 1}, set()),
        (("backbone",), "a_tuning", {"backbone__attention": "sdpa"}, set()),
        (("backbone", "a_tuning"), "b_tuning", {"b_tuning__batch_size": 2}, {"pool"}),
        (("backbone", "a_tuning"), "b_tuning", {"b_tuning__micro_batch_size": 2}, {"checkpoints", "best", "pool"}),
        (("backbone", "a_tuning"), "b_tuning", {"backbone__attention": "sdpa"}, {"checkpoints", "best", "pool"}),
        (("backbone", "a_tuning"), "b_tuning", {"evaluation__per_user": 1}, {"checkpoints", "best", "pool"}),
    ],
)
def test_what_unfinished_stages_read_may_change(
    dataset: Any, tmp_path: Path, done: Any, during: str, values: dict[str, Any], left: set[str]
) -> None:
    run, recipe = begun(dataset, tmp_path / "run", done, during)
    had = scratch(run, during)
    new = changed(recipe, **values)
    start_run(new, dataset, run.path, resume=True)
    assert scratch(run, during) == left
    assert run.recipe == new
    assert run.layout == new.layout.layout(True, None)
    [entry] = run.state.changes
    assert {name.replace(".", "__"): value for name, (_, value) in entry.fields.items()} == values
    assert (entry.during, entry.started_over) == (during, left < had)
    assert list(run.state.done) == list(done)
    # Nothing more to change the next time.
    start_run(new, dataset, run.path, resume=True)
    assert len(run.state.changes) == 1
    assert scratch(run, during) == left


@pytest.mark.parametrize(
    ("done", "values", "message"),
    [
        (("backbone",), {"backbone__layers": 2}, r"backbone\.layers was 4 when backbone ran"),
        (("backbone",), {"layout__history_length": 5}, r"layout\.history_length was 20 when backbone ran"),
        (("backbone", "a_tuning"), {"lora__rank": 4}, r"lora\.rank was 8 when a_tuning ran"),
        (("backbone", "a_tuning"), {"a_tuning__epochs": 2.0}, r"a_tuning\.epochs was 8\.0 when a_tuning ran"),
        (("backbone", "a_tuning"), {"evaluation__validation_targets": 20}, "validation_targets was 2000 when a_tuning"),
        (("backbone", "a_tuning", "b_tuning"), {"b_tuning__dpo_beta": 0.2}, "dpo_beta was 0.1 when b_tuning ran"),
        (("backbone", "a_tuning", "b_tuning", "evaluation"), {"evaluation__limit": 5}, "when evaluation ran"),
        (("backbone",), {"seed": 1, "a_tuning__epochs": 2.0}, "seed was 0 when backbone ran"),
    ],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_a_finished_stage_has_read_may_not(
    dataset: Any, tmp_path: Path, done: Any, values: dict[str, Any], message: str, by_hand: bool
) -> None:
    run, recipe = begun(dataset, tmp_path / "run", done)
    new, before = changed(recipe, **values), run.state
    if by_hand:
        (run.path / "recipe.yaml").write_text(new.to_yaml())
        new = run.recipe
    with pytest.raises(EdgebError, match=message) as caught:
        start_run(new, dataset, run.path, resume=True)
    assert "\n" not in caught.value.message
    assert run.state == before
    if not by_hand:
        assert run.recipe == recipe


def test_memory_and_logging_may_always_change(dataset: Any, tmp_path: Path) -> None:
    run, recipe = begun(dataset, tmp_path / "run", ("backbone", "a_tuning", "b_tuning", "evaluation", "report"))
    new = changed(recipe, threads=2, a_tuning__micro_batch_size=1, backbone__attention="sdpa", report_to=[])
    start_run(new, dataset, run.path, resume=True)
    assert [entry.during for entry in run.state.changes] == [None]


def test_a_given_backbone_has_read_nothing_but_its_path(dataset: Any, tmp_path: Path) -> None:
    recipe = changed(Recipe(), backbone__path="some/name")
    run = start_run(recipe, dataset, tmp_path / "run", resume=False)
    finish(run, "backbone", {}, recipe)
    start_run(changed(recipe, layout__name="prefix", seed=3), dataset, run.path, resume=True)
    assert run.layout.name == "prefix"
    with pytest.raises(EdgebError, match=r"backbone\.path was 'some/name' when backbone ran"):
        start_run(changed(recipe, backbone__path=None), dataset, run.path, resume=True)


def test_a_kill_between_both_files_is_the_same_change(
    dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipe = begun(dataset, tmp_path / "run", ("backbone",), "a_tuning")
    new = changed(recipe, a_tuning__epochs=2.0)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "update", killed)
        with pytest.raises(KeyboardInterrupt):
            start_run(new, dataset, run.path, resume=True)
    assert scratch(run, "a_tuning") == set()
    start_run(run.recipe, dataset, run.path, resume=True)
    assert [entry.fields for entry in run.state.changes] == [{"a_tuning.epochs": (8.0, 2.0)}]


def test_a_run_of_before_has_no_record_and_goes_on(dataset: Any, tmp_path: Path) -> None:
    run, recipe = begun(dataset, tmp_path / "run", ("backbone",))
    old = {key: value for key, value in run.state.to_dict().items() if key not in ("recipe", "inputs", "made")}
    write_json(run.path / "run.json", old)
    start_run(recipe, dataset, run.path, resume=True)
    assert run.state.recipe == recipe.model_dump()
    with pytest.raises(EdgebError, match="when backbone ran"):
        start_run(changed(recipe, seed=1), dataset, run.path, resume=True)


@pytest.fixture
def pointed(dataset: Any, tmp_path: Path) -> tuple[Recipe, Path, Path]:
    """A recipe that points to a backbone and a conversation file, and both."""
    backbone, talk = tmp_path / "base", tmp_path / "talk.jsonl"
    backbone.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (backbone / name).write_text("before")
    talk.write_text("before")
    recipe = changed(Recipe(), backbone__path=str(backbone), a_tuning__aux_path=str(talk))
    start_run(recipe, dataset, tmp_path / "run", resume=False)
    return recipe, backbone, talk


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_backbone_that_changed_is_refused(dataset: Any, tmp_path: Path, pointed: Any, name: str) -> None:
    recipe, backbone, _ = pointed
    (backbone / name).write_text("after.")
    with pytest.raises(EdgebError, match=rf"{name} \(backbone\.path\) has changed since"):
        start_run(recipe, dataset, tmp_path / "run", resume=True)


def test_conversations_may_change_once_they_are_used(dataset: Any, tmp_path: Path, pointed: Any) -> None:
    recipe, _, talk = pointed
    talk.write_text("after.")
    with pytest.raises(EdgebError, match=r"talk\.jsonl \(a_tuning\.aux_path\) has changed since"):
        start_run(recipe, dataset, tmp_path / "run", resume=True)
    run = RunFolder.open(tmp_path / "run")
    before = run.state.inputs["a_tuning.aux_path"]
    (run.path / "a_tuning" / "adapter").mkdir(parents=True)
    finish(run, "backbone", {}, recipe)
    finish(run, "a_tuning", {}, recipe)
    start_run(recipe, dataset, run.path, resume=True)
    talk.unlink()
    start_run(recipe, dataset, run.path, resume=True)
    # What stage 1 has read stays on record.
    assert run.state.inputs["a_tuning.aux_path"] == before


def test_another_path_is_a_changed_field(dataset: Any, tmp_path: Path, pointed: Any) -> None:
    recipe, _, talk = pointed
    (tmp_path / "other.jsonl").write_text("other")
    new = changed(recipe, a_tuning__aux_path=str(tmp_path / "other.jsonl"))
    run = start_run(new, dataset, tmp_path / "run", resume=True)
    assert list(run.state.inputs["a_tuning.aux_path"]) == ["other.jsonl"]
    assert talk.is_file()


def test_a_readme_beside_the_weights_may_change(dataset: Any, tmp_path: Path, pointed: Any) -> None:
    recipe, backbone, _ = pointed
    (backbone / "README.md").write_text("after")
    start_run(recipe, dataset, tmp_path / "run", resume=True)


def test_a_backbone_may_move(dataset: Any, tmp_path: Path, pointed: Any) -> None:
    """The same files at another path are the same input, also to a stage that has read them."""
    recipe, backbone, _ = pointed
    run = RunFolder.open(tmp_path / "run")
    finish(run, "backbone", {}, recipe)
    (run.path / "a_tuning" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    backbone.rename(tmp_path / "moved")
    with pytest.raises(EdgebError, match=r"\(backbone\.path\) has changed since"):
        start_run(recipe, dataset, run.path, resume=True)
    start_run(changed(recipe, backbone__path=str(tmp_path / "moved")), dataset, run.path, resume=True)
    assert run.backbone == str((tmp_path / "moved").resolve())
    assert scratch(run, "a_tuning") == {"checkpoints"}
    shutil.copytree(tmp_path / "moved", tmp_path / "other")
    (tmp_path / "other/config.json").write_text("after.")
    with pytest.raises(EdgebError, match=r"backbone\.path was .* when backbone ran"):
        start_run(changed(recipe, backbone__path=str(tmp_path / "other")), dataset, run.path, resume=True)


def test_a_run_begun_with_a_relative_path_goes_on_from_anywhere(
    dataset: Any, tmp_path: Path, pointed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, backbone, talk = pointed
    old = changed(recipe, backbone__path="./base", a_tuning__aux_path="talk.jsonl")
    run = RunFolder.open(tmp_path / "run")
    run.update(backbone={"path": "./base", "standin": False}, recipe=old.model_dump())
    (run.path / "recipe.yaml").write_text(old.to_yaml())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run.backbone == str(backbone.resolve())
    start_run(run.recipe, dataset, run.path, resume=True)
    assert run.recipe_in_force.backbone.path == str(backbone.resolve())
    assert run.recipe_in_force.a_tuning.aux_path == str(talk.resolve())


def test_what_a_backbone_must_be_fit_for_may_always_change(dataset: Any, tmp_path: Path) -> None:
    run, recipe = begun(dataset, tmp_path / "run", ("backbone", "a_tuning", "b_tuning", "evaluation", "report"))
    start_run(changed(recipe, backbone__export="none"), dataset, run.path, resume=True)
