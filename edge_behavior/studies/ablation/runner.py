"""Runs a plan: each run an ordinary run folder, finished ones skipped, equal stages trained once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.studies.ablation.folder import AblationFolder
from edge_behavior.studies.ablation.studies import Plan, PlannedRun
from edge_behavior.train.pipeline import train
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.inputs import digests, read_inputs
from edge_behavior.train.run.stage_record import stage_key
from edge_behavior.train.run.stage_reuse import take_over
from edge_behavior.train.run.start import start_run
from edge_behavior.train.stage_list import STAGES
from edge_behavior.train.trainer.processes import release_memory, world_size
from edge_behavior.util.terminal import open_console

Runner = Callable[[Recipe, Dataset, Path], RunFolder]


def run_plan(plan: Plan, data: Path, folder: AblationFolder, execute: Runner | None = None) -> list[str]:
    """Do every run of the plan that is not finished. One that fails is noted, and the others go on.

    Args:
        plan: What to run.
        data: The dataset folder.
        folder: Where; asked for this plan before.
        execute: Continues a begun run to its end; `pipeline.train` with `resume` by default.

    Returns:
        Names of the runs that failed.

    Raises:
        EdgebError: started as one of several processes.
    """
    if world_size() > 1:
        raise EdgebError(
            f"edgeb ablate runs in one process, not {world_size()}",
            "start one per GPU, each with an --out of its own and some of the studies (--only)",
        )
    console, dataset = open_console(stderr=True), Dataset.open(data)
    (folder.path / "runs").mkdir(exist_ok=True)
    failed = []
    for number, planned in enumerate(plan.runs, 1):
        title = f"run {number} of {len(plan.runs)}: {planned.name}"
        if folder.finished(planned.name):
            console.print(f"{title}: done before", markup=False)
            continue
        console.print(title, markup=False)
        try:
            _one(planned, dataset, folder, execute or _train)
        except Exception as error:
            failed.append(planned.name)
            reason = _reason(error)
            folder.note_error(planned.name, f"{reason}\n\n{traceback.format_exc()}")
            console.print(f"{planned.name} failed: {reason}", markup=False)
        else:
            folder.forget_error(planned.name)
    return failed


def stages_needed(plan: Plan, fingerprint: str, folder: AblationFolder | None = None) -> dict[str, Any]:
    """What a plan would train, for a dry run.

    Args:
        plan: What would be run.
        fingerprint: The dataset's.
        folder: Its finished runs and stages are not counted as work left.

    Returns:
        `runs`, `finished`, and per stage how often it is trained: `left` with sharing, `unshared` without.
    """
    finished = {run.name for run in plan.runs if folder is not None and folder.finished(run.name)}
    left = [run for run in plan.runs if run.name not in finished]
    shared = [stage.name for stage in STAGES if stage.shareable]
    done_keys: dict[str, set[str]] = {stage: set() for stage in shared}
    for run, recipe in folder.begun_runs() if folder is not None and folder.begun else ():
        state = run.state
        for stage in shared:
            if stage in state.done:
                record = state.made.get(stage)
                done_keys[stage].add(stage_key(stage, recipe, fingerprint) if record is None else record.key)
    stages: dict[str, dict[str, int]] = {}
    for stage in shared:
        trained = [run for run in left if not _nothing_to_train(stage, run.recipe)]
        keys = {stage_key(stage, run.recipe, fingerprint, digests(read_inputs(run.recipe))) for run in trained}
        stages[stage] = {"left": len(keys - done_keys[stage]), "unshared": len(trained)}
    tuned = sum(run.recipe.b_tuning.method != "none" for run in left)
    stages["b_tuning"] = {"left": tuned, "unshared": tuned}
    return {"runs": len(plan.runs), "finished": len(finished), "stages": stages}


def _one(planned: PlannedRun, dataset: Dataset, folder: AblationFolder, execute: Runner) -> None:
    path = folder.run_path(planned.name)
    run = folder.run(planned.name) or start_run(planned.recipe, dataset, path, resume=False)
    others = [(other, recipe) for other, recipe in folder.begun_runs() if other.path != path]
    taken = take_over(run, planned.recipe, others)
    if taken:
        open_console(stderr=True).print(f"{', '.join(taken)}: taken over", markup=False)
    execute(planned.recipe, dataset, path)


def _train(recipe: Recipe, dataset: Dataset, out: Path) -> RunFolder:
    try:
        return train(recipe, dataset, out, resume=True)
    finally:
        release_memory()


def _nothing_to_train(stage: str, recipe: Recipe) -> bool:
    if stage == "backbone":
        return recipe.backbone.path is not None
    return recipe.a_tuning.method == "none"


def _reason(error: Exception) -> str:
    if isinstance(error, EdgebError):
        return " ".join(f"{error.message} ({error.hint})".split() if error.hint else str(error.message).split())
    lines: Sequence[str] = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
