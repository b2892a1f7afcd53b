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
            console.print(f"{title}: already done")
            continue
        console.print(title)
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
        open_console(stderr=True).print(f"{name} failed: {reason}")
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
    _share_precision(run, planned.recipe, others)
    taken = take_over(run, planned.recipe, others)
    if taken:
        open_console(stderr=True).print(f"reused from another run: {', '.join(taken)}")
    return (execute or train_until())(planned.recipe, dataset, path)


def _share_precision(run: RunFolder, recipe: Recipe, others: Sequence[tuple[RunFolder, Recipe]]) -> None:
    """Take over what `dtype: auto` was found to be for this backbone: runs that differ in it do not compare."""
    if recipe.backbone.dtype != "auto" or run.state.computing is not None:
        return
    for other, its_recipe in others:
        if other.state.computing is not None and its_recipe.backbone == recipe.backbone:
            run.update(computing=other.state.computing)
            return


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
    left = stages_left(runs, fingerprint, folder, last)
    names = (*(stage.name for stage in STAGES if stage.shareable), "b_tuning")
    stages = {
        stage: StageCount(
            sum(stage in trained for _, trained in left), sum(stage in _trained(run.recipe) for run, _ in left)
        )
        for stage in names
    }
    return PlannedWork(len(runs), len(runs) - len(left), stages)


def stages_left(
    runs: Sequence[PlannedRun], fingerprint: str, folder: RunsFolder | None = None, last: str = STAGE_NAMES[-1]
) -> list[tuple[PlannedRun, tuple[str, ...]]]:
    """The runs that are not finished, each with the stages that it trains.

    Equal stages are trained once: by the first run that needs them, and by none where one in the folder did.
    Args as in `planned_work`.
    """
    known: dict[str, set[str]] = {stage.name: set() for stage in STAGES if stage.shareable}
    for run, recipe in folder.started_runs() if folder is not None else ():
        state = run.state
        for stage in known:
            if stage in state.done:
                record = state.made.get(stage)
                known[stage].add(stage_key(stage, recipe, fingerprint) if record is None else record.key)
    found = []
    for planned in runs:
        if folder is not None and folder.finished(planned.name, last):
            continue
        inputs, stages = digests(read_inputs(planned.recipe)), []
        for stage in _trained(planned.recipe):
            if stage in known:
                key = stage_key(stage, planned.recipe, fingerprint, inputs)
                if key in known[stage]:
                    continue
                known[stage].add(key)
            stages.append(stage)
        found.append((planned, tuple(stages)))
    return found


def _trained(recipe: Recipe) -> list[str]:
    """The stages of a run that train something."""
    found = ["backbone"] if recipe.backbone.path is None else []
    found += ["a_tuning"] if recipe.a_tuning.method != "none" else []
    return found + (["b_tuning"] if recipe.b_tuning.method != "none" else [])


def _reason(error: Exception) -> str:
    if isinstance(error, EdgebError):
        return " ".join(f"{error.message} ({error.hint})".split() if error.hint else str(error.message).split())
    lines: Sequence[str] = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
