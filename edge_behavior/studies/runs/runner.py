"""Does runs: every one is an ordinary run folder, finished ones are skipped, stages in common are trained once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.studies.runs.folder import RunsFolder
from edge_behavior.studies.runs.planned import PlannedRun
from edge_behavior.train.pipeline import train
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.inputs import digests, read_inputs
from edge_behavior.train.run.stage_record import stage_key
from edge_behavior.train.run.stage_reuse import take_over
from edge_behavior.train.run.start import start_run
from edge_behavior.train.stage_list import STAGE_NAMES, STAGES
from edge_behavior.train.trainer.processes import release_memory, world_size
from edge_behavior.util.terminal import open_console

# Continues a started run to its end.
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


def run_plan(
    runs: Sequence[PlannedRun], data: Path, folder: RunsFolder, command: str, execute: Runner | None = None
) -> list[str]:
    """Do every unfinished run of a plan. A failure is noted, and the other runs go on.

    Args:
        runs: What to run.
        data: The dataset folder.
        folder: Where; the study has noted its plan there.
        command: Named in error messages.
        execute: By default `pipeline.train` with `resume`.

    Returns:
        Names of the runs that failed.

    Raises:
        EdgebError: started as one of several processes.
    """
    check_one_process(command)
    console, dataset = open_console(stderr=True), Dataset.open(data)
    (folder.path / "runs").mkdir(exist_ok=True)
    failed = []
    for number, planned in enumerate(runs, 1):
        title = f"run {number} of {len(runs)}: {planned.name}"
        if folder.finished(planned.name):
            console.print(f"{title}: already done", markup=False)
            continue
        console.print(title, markup=False)
        if not attempted(planned.name, folder, partial(do_run, planned, dataset, folder, execute)):
            failed.append(planned.name)
    return failed


def check_one_process(command: str) -> None:
    """Refuse to be one of several processes.

    Raises:
        EdgebError: there are several.
    """
    if world_size() > 1:
        raise EdgebError(
            f"{command} runs in one process, not {world_size()}",
            "start one per GPU, each with an --out of its own and a part of the work",
        )


def attempted(name: str, folder: RunsFolder, work: Callable[[], object]) -> bool:
    """Whether some work succeeded; why it failed is noted under `name`, and an older note removed on success."""
    try:
        work()
    except Exception as error:
        reason = _reason(error)
        folder.note_error(name, f"{reason}\n\n{traceback.format_exc()}")
        open_console(stderr=True).print(f"{name} failed: {reason}", markup=False)
        return False
    folder.forget_error(name)
    return True


def do_run(planned: PlannedRun, dataset: Dataset, folder: RunsFolder, execute: Runner | None = None) -> RunFolder:
    """Start or continue one run to its end, with the stages that it shares with others taken from them.

    Args:
        execute: By default `pipeline.train` with `resume`.

    Raises:
        EdgebError: as training does.
    """
    path = folder.run_path(planned.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    run = folder.run(planned.name) or start_run(planned.recipe, dataset, path, resume=False)
    others = [(other, recipe) for other, recipe in folder.started_runs() if other.path != path]
    taken = take_over(run, planned.recipe, others)
    if taken:
        open_console(stderr=True).print(f"reused from another run: {', '.join(taken)}", markup=False)
    return (execute or train_until())(planned.recipe, dataset, path)


def train_until(last: str = STAGE_NAMES[-1]) -> Runner:
    """What continues a run up to a stage."""

    def execute(recipe: Recipe, dataset: Dataset, out: Path) -> RunFolder:
        try:
            return train(recipe, dataset, out, resume=True, last=last)
        finally:
            release_memory()

    return execute


def planned_work(
    runs: Sequence[PlannedRun], fingerprint: str, folder: RunsFolder | None = None, last: str = STAGE_NAMES[-1]
) -> PlannedWork:
    """What a plan would train, for a dry run.

    Args:
        runs: What would be run.
        fingerprint: The dataset's.
        folder: Its finished runs and stages are not counted as work left.
        last: The stage that a run is finished with.
    """
    finished = {run.name for run in runs if folder is not None and folder.finished(run.name, last)}
    left = [run for run in runs if run.name not in finished]
    shared = [stage.name for stage in STAGES if stage.shareable]
    done_keys: dict[str, set[str]] = {stage: set() for stage in shared}
    for run, recipe in folder.started_runs() if folder is not None else ():
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
    return PlannedWork(len(runs), len(finished), stages)


def _nothing_to_train(stage: str, recipe: Recipe) -> bool:
    if stage == "backbone":
        return recipe.backbone.path is not None
    return recipe.a_tuning.method == "none"


def _reason(error: Exception) -> str:
    if isinstance(error, EdgebError):
        return " ".join(f"{error.message} ({error.hint})".split() if error.hint else str(error.message).split())
    lines: Sequence[str] = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
