"""Runs a plan: every run is an ordinary run folder, finished ones are skipped, stages in common are trained once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class StageCount:
    """How often a stage remains to be trained: `left` with sharing between runs, `unshared` without."""

    left: int
    unshared: int


@dataclass(frozen=True)
class PlannedWork:
    """What a plan would train.

    Attributes:
        runs: Number of runs.
        finished: How many of them are finished.
        stages: Per stage.
    """

    runs: int
    finished: int
    stages: Mapping[str, StageCount]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)


def run_plan(plan: Plan, data: Path, folder: AblationFolder, execute: Runner | None = None) -> list[str]:
    """Do every unfinished run of the plan. A failure is noted, and the other runs go on.

    Args:
        plan: What to run.
        data: The dataset folder.
        folder: Where; `AblationFolder.ask` has noted the plan there.
        execute: Continues a started run to its end; `pipeline.train` with `resume` by default.

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
            console.print(f"{title}: already done", markup=False)
            continue
        console.print(title, markup=False)
        try:
            _do(planned, dataset, folder, execute or _train)
        except Exception as error:
            failed.append(planned.name)
            reason = _reason(error)
            folder.note_error(planned.name, f"{reason}\n\n{traceback.format_exc()}")
            console.print(f"{planned.name} failed: {reason}", markup=False)
        else:
            folder.forget_error(planned.name)
    return failed


def planned_work(plan: Plan, fingerprint: str, folder: AblationFolder | None = None) -> PlannedWork:
    """What a plan would train, for a dry run.

    Args:
        plan: What would be run.
        fingerprint: The dataset's.
        folder: Its finished runs and stages are not counted as work left.
    """
    finished = {run.name for run in plan.runs if folder is not None and folder.finished(run.name)}
    left = [run for run in plan.runs if run.name not in finished]
    shared = [stage.name for stage in STAGES if stage.shareable]
    done_keys: dict[str, set[str]] = {stage: set() for stage in shared}
    for run, recipe in folder.started_runs() if folder is not None and folder.started else ():
        state = run.state
        for stage in shared:
            if stage in state.done:
                record = state.made.get(stage)
                done_keys[stage].add(stage_key(stage, recipe, fingerprint) if record is None else record.key)
    stages = {}
    for stage in shared:
        trained = [run for run in left if not _nothing_to_train(stage, run.recipe)]
        keys = {stage_key(stage, run.recipe, fingerprint, digests(read_inputs(run.recipe))) for run in trained}
        stages[stage] = StageCount(len(keys - done_keys[stage]), len(trained))
    tuned = sum(run.recipe.b_tuning.method != "none" for run in left)
    stages["b_tuning"] = StageCount(tuned, tuned)
    return PlannedWork(len(plan.runs), len(finished), stages)


def _do(planned: PlannedRun, dataset: Dataset, folder: AblationFolder, execute: Runner) -> None:
    path = folder.run_path(planned.name)
    run = folder.run(planned.name) or start_run(planned.recipe, dataset, path, resume=False)
    others = [(other, recipe) for other, recipe in folder.started_runs() if other.path != path]
    taken = take_over(run, planned.recipe, others)
    if taken:
        open_console(stderr=True).print(f"reused from another run: {', '.join(taken)}", markup=False)
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
