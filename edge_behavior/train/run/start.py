"""How a run begins or resumes: the run folder, and whether recipe, dataset and files are still the same.

A resumed run may get other values for fields that only unfinished stages read; run.json records each such change.
"""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_behavior import __version__
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.hf.find import find_backbone
from edge_behavior.hf.folder import is_model_file
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder, write_text
from edge_behavior.train.run.inputs import first_difference, located, read_inputs
from edge_behavior.train.run.recipe_changes import Changes, changed_fields, check_changes
from edge_behavior.train.run.stage_record import check_made, done_stages, forget_deleted
from edge_behavior.train.run.state import BackboneRecord, CandidateRecord, ChangeRecord, DatasetRecord, Inputs
from edge_behavior.train.stage_list import BACKBONE_FIELD, STAGES, Stage
from edge_behavior.train.trainer.backbone import load_tokenizer
from edge_behavior.train.trainer.processes import console, is_main, wait


def start_run(recipe: Recipe, dataset: Dataset, out: Path, resume: bool) -> RunFolder:
    """Make or reopen the run folder; of several processes the main one does.

    Raises:
        EdgebError: it exists already; or, with `resume`, a finished stage has read a field that changed since, its
            files are damaged, or the dataset or a file that the recipe points to has changed.
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
    # run.json comes last: it makes the folder a run.
    write_text(out / "recipe.yaml", recipe.to_yaml())
    RunFolder(out).update(
        edgeb=__version__,
        created=_now(),
        dataset=DatasetRecord(path=str(dataset.path.resolve()), fingerprint=dataset.fingerprint),
        candidates=[
            CandidateRecord(label=label, count=count)
            for label, count in zip(dataset.candidates.labels, dataset.candidates.counts, strict=True)
        ],
        inputs=inputs,
        **_of_recipe(recipe, dataset),
    )


def _reopen(recipe: Recipe, dataset: Dataset, run: RunFolder) -> None:
    if run.state.fingerprint != dataset.fingerprint:
        raise EdgebError(f"{dataset.path} has changed since {run.path} was begun", "start a new run")
    undone = forget_deleted(run)
    if undone:
        console().print(f"{run.path} lacks the output of {undone[0]}; redoing {', '.join(undone)}")
    check_made(run)
    recipe, before = located(recipe, run.path), located(run.recipe_in_force, run.path)
    changes, done = changed_fields(before, recipe), done_stages(run)
    recorded = _recorded(run)
    now = read_inputs(recipe, recorded)
    # The same files at another path are the same input.
    new = {field: values for field, values in changes.items() if not _unchanged(field, recorded, now)}
    check_changes(new, before, done)
    left = [stage for stage in STAGES if stage.name not in done]
    inputs = _checked_inputs(recorded, now, run, changes, left)
    if changes:
        _change(recipe, dataset, run, changes, new, left[0] if left else None)
    run.update(inputs=inputs, **_of_recipe(recipe, dataset))


def _recorded(run: RunFolder) -> Inputs:
    """The files that the recipe's paths led to before. Older versions also recorded a backbone's unused files."""
    found = dict(run.state.inputs)
    if BACKBONE_FIELD in found:
        found[BACKBONE_FIELD] = {name: file for name, file in found[BACKBONE_FIELD].items() if is_model_file(name)}
    return found


def _unchanged(field: str, before: Inputs, now: Inputs) -> bool:
    return field in before and field in now and first_difference(before[field], now[field]) is None


def _checked_inputs(recorded: Inputs, now: Inputs, run: RunFolder, changes: Changes, left: list[Stage]) -> Inputs:
    """The files that the recipe's paths lead to; those that only finished stages read may have changed or gone.

    Raises:
        EdgebError: naming a file that has changed and is still read.
    """
    kept: Inputs = {}
    for field, files in recorded.items():
        name = None if field in changes else first_difference(files, now.get(field, {}))
        if name is None:
            continue
        if any(field in stage.input_fields for stage in left):
            raise EdgebError(
                f"{name} ({field}) has changed since {run.path} was begun", "put it back, or start a new run"
            )
        kept[field] = files
    return {**now, **kept}


def _change(
    recipe: Recipe, dataset: Dataset, run: RunFolder, changes: Changes, new: Changes, during: Stage | None
) -> None:
    """Adopt changed fields; `new` are those whose input changed, too. After a kill, recipe.yaml still shows them.

    Args:
        during: The first unfinished stage.
    """
    shown = ", ".join(f"{field} {old!r} -> {value!r}" for field, (old, value) in changes.items())
    console().print(f"changed for the rest of the run: {shown}")
    started_over = during is not None and during.starts_over(new) and _drop_progress(run, during)
    if during is not None and started_over:
        console().print(f"{during.name} starts over: its checkpoints belong to the old settings")
    write_text(run.path / "recipe.yaml", recipe.to_yaml())
    change = ChangeRecord(
        when=_now(),
        during=None if during is None else during.name,
        started_over=started_over,
        fields=dict(changes),
    )
    run.update(changes=[*run.state.changes, change], **_of_recipe(recipe, dataset))


def _drop_progress(run: RunFolder, stage: Stage) -> bool:
    """Delete a stage's work in progress; whether there was any."""
    found = [run.path / name for name in stage.progress if (run.path / name).is_dir()]
    for folder in found:
        shutil.rmtree(folder)
    return bool(found)


def _of_recipe(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """The fields of run.json that follow from the recipe, for this dataset."""
    backbone = recipe.backbone
    return {
        "backbone": BackboneRecord(
            path=backbone.path or "backbone", standin=backbone.path is None, revision=backbone.revision
        ),
        "layout": recipe.layout.layout(dataset.has_places, _template_source(recipe)).to_dict(),
        "recipe": recipe.model_dump(),
    }


def _template_source(recipe: Recipe) -> Any:
    """The tokenizer whose chat template the run takes; None where it takes none."""
    backbone = recipe.backbone
    if not recipe.layout.chat_template or backbone.path is None:
        return None
    return load_tokenizer(find_backbone(backbone.path, backbone.revision, weights=False))


def _barely_begun(out: Path) -> bool:
    """Whether a folder holds only what a killed start leaves: no run.json, at most a recipe."""
    names = [path.name.lstrip(".") for path in out.iterdir()] if out.is_dir() else [""]
    return "run.json" not in names and all(name.startswith(("recipe.yaml", "run.json.")) for name in names)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
