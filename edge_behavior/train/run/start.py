"""How a run begins or goes on: the folder, and whether recipe, dataset and files are still those it was begun with.

A resumed run may get other values for fields that only unfinished stages read; run.json keeps what was changed when.
"""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_behavior import __version__
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.hf.folder import is_model_file
from edge_behavior.train.recipe import Recipe, load_recipe, parse_recipe
from edge_behavior.train.run.folder import RunFolder, saved_recipe, write_text
from edge_behavior.train.run.inputs import Inputs, first_difference, located, read_inputs
from edge_behavior.train.run.provenance import BACKBONE_FIELD
from edge_behavior.train.run.recipe_changes import (
    STAGES_IN_ORDER,
    Changes,
    changed_fields,
    check_changes,
    starts_over,
)
from edge_behavior.train.run.stage_record import check_made, done_stages, forget_deleted
from edge_behavior.train.trainer.processes import console, is_main, wait

# Scores of the pool stay: they are of the A-tuned weights, and a shard knows which windows it holds.
_PROGRESS = ("checkpoints", "best")

_READERS = {BACKBONE_FIELD: ("a_tuning", "b_tuning", "evaluation"), "a_tuning.aux_path": ("a_tuning",)}


def start_run(recipe: Recipe, dataset: Dataset, out: Path, resume: bool) -> RunFolder:
    """Make or reopen the run folder; with several processes the main one does, for all.

    Raises:
        EdgebError: it exists already; or, to be resumed, a finished stage has read a field that has changed since, its
            files are damaged, or the dataset or a file that the recipe points to is another.
    """
    if is_main():
        if resume:
            _reopen(recipe, dataset, RunFolder.open(out))
        else:
            _begin(recipe, dataset, out)
    wait()
    return RunFolder.open(out)


def _begin(recipe: Recipe, dataset: Dataset, out: Path) -> None:
    if out.exists() and not _barely_begun(out):
        hint = "continue it with --resume" if (out / "run.json").is_file() else "choose another --out"
        raise EdgebError(f"{out} already exists", hint)
    inputs = read_inputs(recipe)
    out.mkdir(parents=True, exist_ok=True)
    # Last of all run.json, which makes the folder a run.
    write_text(out / "recipe.yaml", recipe.to_yaml())
    RunFolder(out).update(
        edgeb=__version__,
        created=_now(),
        dataset={"path": str(dataset.path.resolve()), "fingerprint": dataset.fingerprint},
        candidates=[
            {"label": label, "count": count}
            for label, count in zip(dataset.candidates.labels, dataset.candidates.counts, strict=True)
        ],
        inputs=inputs,
        **_of_recipe(recipe, dataset),
    )


def _reopen(recipe: Recipe, dataset: Dataset, run: RunFolder) -> None:
    state = run.state
    if state["dataset"]["fingerprint"] != dataset.fingerprint:
        raise EdgebError(f"{dataset.path} has changed since {run.path} was begun", "start a new run")
    undone = forget_deleted(run)
    if undone:
        console().print(f"{run.path} lacks what {undone[0]} made; to be done again: {', '.join(undone)}", markup=False)
    check_made(run)
    # Older runs have no copy in run.json.
    before = (
        parse_recipe(state["recipe"], str(run.path / "run.json"))
        if "recipe" in state
        else load_recipe(str(saved_recipe(run.path)))
    )
    recipe, before = located(recipe, run.path), located(before, run.path)
    changes, done = changed_fields(before, recipe), done_stages(run)
    now = read_inputs(recipe, _recorded(run))
    # The same files at another path are the same input.
    moved = {field for field in changes if _unchanged(field, _recorded(run), now)}
    new = {field: values for field, values in changes.items() if field not in moved}
    check_changes(new, before, done)
    left = [stage for stage in STAGES_IN_ORDER if stage not in done]
    inputs = _same_inputs(now, run, changes, left)
    if changes:
        _change(recipe, dataset, run, changes, left, over=new)
    run.update(inputs=inputs, **_of_recipe(recipe, dataset))


def _recorded(run: RunFolder) -> Inputs:
    """What the recipe's paths led to before. Of a backbone's files older versions noted more than are read."""
    found: Inputs = dict(run.state.get("inputs", {}))
    if BACKBONE_FIELD in found:
        found[BACKBONE_FIELD] = {name: entry for name, entry in found[BACKBONE_FIELD].items() if is_model_file(name)}
    return found


def _unchanged(field: str, before: Inputs, now: Inputs) -> bool:
    return field in before and field in now and first_difference(before[field], now[field]) is None


def _same_inputs(now: Inputs, run: RunFolder, changes: Changes, left: list[str]) -> Inputs:
    """What the recipe's paths lead to; what only finished stages have read may have changed or gone.

    Raises:
        EdgebError: naming a file that has changed and is still read.
    """
    for field, files in _recorded(run).items():
        if field in changes:
            continue
        name = first_difference(files, now.get(field, {}))
        if name is None:
            continue
        if not set(_READERS[field]).isdisjoint(left):
            raise EdgebError(
                f"{name} ({field}) has changed since {run.path} was begun", "put it back, or start a new run"
            )
        now[field] = files
    return now


def _change(recipe: Recipe, dataset: Dataset, run: RunFolder, changes: Changes, left: list[str], over: Changes) -> None:
    """Take over changed fields, `over` of them for other values than before.

    Killed in between, the next call finds the same changes, in recipe.yaml.
    """
    during = left[0] if left else None
    told = ", ".join(f"{field} {old!r} -> {new!r}" for field, (old, new) in changes.items())
    console().print(f"changed for the rest of the run: {told}", markup=False)
    started_over = during is not None and starts_over(during, over) and _drop_progress(run.path / during)
    if started_over:
        console().print(f"{during} starts over: its checkpoints belong to the settings before", markup=False)
    write_text(run.path / "recipe.yaml", recipe.to_yaml())
    entry = {
        "when": _now(),
        "during": during,
        "started_over": started_over,
        "fields": {field: [old, new] for field, (old, new) in changes.items()},
    }
    run.update(changes=[*run.state.get("changes", []), entry], **_of_recipe(recipe, dataset))


def _drop_progress(stage: Path) -> bool:
    """Delete a stage's checkpoints; whether there were any."""
    found = [stage / name for name in _PROGRESS if (stage / name).is_dir()]
    for folder in found:
        shutil.rmtree(folder)
    return bool(found)


def _of_recipe(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """The fields of run.json that follow from the recipe, for this dataset."""
    return {
        "backbone": {
            "path": recipe.backbone.path or "backbone",
            "standin": recipe.backbone.path is None,
            "revision": recipe.backbone.revision,
        },
        "layout": recipe.layout.layout(dataset.has_places).to_dict(),
        "recipe": recipe.model_dump(),
    }


def _barely_begun(out: Path) -> bool:
    """Whether a folder holds nothing but what a start that was killed leaves: no run.json, at most a recipe."""
    names = [path.name.lstrip(".") for path in out.iterdir()] if out.is_dir() else [""]
    return "run.json" not in names and all(name.startswith(("recipe.yaml", "run.json.")) for name in names)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
