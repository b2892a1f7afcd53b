"""A whole training run: `edgeb train` from the recipe to the report. Finished stages are skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from transformers import set_seed

from edge_behavior.data.dataset import SPLITS, Dataset
from edge_behavior.data.verify import verify
from edge_behavior.hf.find import find_backbone
from edge_behavior.train.preflight import check_inputs
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.inputs import located, pinned
from edge_behavior.train.run.stage_record import done_stages, drop_scratch, finish
from edge_behavior.train.run.start import start_run
from edge_behavior.train.run.state import ComputingRecord
from edge_behavior.train.stage_list import STAGE_NAMES
from edge_behavior.train.stages.a_tuning import tune_on_anchors
from edge_behavior.train.stages.b_tuning import tune_on_difficult
from edge_behavior.train.stages.backbone import build_backbone
from edge_behavior.train.stages.context import StageContext
from edge_behavior.train.stages.evaluation import evaluate_test_users
from edge_behavior.train.stages.report import write_reports
from edge_behavior.train.trainer.backbone import read_config
from edge_behavior.train.trainer.failures import explained
from edge_behavior.train.trainer.precision import chosen_dtype
from edge_behavior.train.trainer.processes import console, idle_gpus, is_main, release_memory, state, wait
from edge_behavior.train.trainer.threads import Threads
from edge_behavior.util.progress import progress_bar

# What does the work of each stage and returns its report.
WORK: dict[str, Callable[[StageContext], dict[str, Any]]] = {
    "backbone": build_backbone,
    "a_tuning": tune_on_anchors,
    "b_tuning": tune_on_difficult,
    "evaluation": evaluate_test_users,
    "report": write_reports,
}
# Verifying fewer events takes a moment, and needs no progress bar.
_LARGE = 10_000_000


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    resume: bool = False,
    began: Callable[[], None] = lambda: None,
    last: str = STAGE_NAMES[-1],
) -> RunFolder:
    """Run the recipe on a dataset.

    Args:
        out: The run folder; with `resume` it exists.
        began: Called once the run folder is there.
        last: The stage to end with.

    Raises:
        EdgebError: bad recipe, data or backbone; the run folder then holds what was finished.
    """
    state()
    if more := idle_gpus():
        console().print(f"one of {more + 1} GPUs is used: start with torchrun --nproc-per-node {more + 1} to use all")
    recipe = located(recipe, out) if resume else pinned(recipe)
    check_inputs(recipe, dataset, done_stages(RunFolder.open(out)) if resume else ())
    if is_main():
        _verify(dataset)
    run = start_run(recipe, dataset, out, resume)
    if is_main():
        began()
    threads = Threads(recipe.threads)
    if is_main() and run.state.computing is None and recipe.backbone.dtype == "auto":
        threads.fit()
        _choose_dtype(recipe, run)
    wait()
    run_stages(StageContext(recipe, dataset, run), threads, last)
    return run


def run_stages(context: StageContext, threads: Threads, last: str = STAGE_NAMES[-1]) -> None:
    """The stages up to `last` in order; finished ones are skipped.

    Args:
        threads: Fitted anew at the start of each stage.
        last: The stage to end with.

    Raises:
        EdgebError: a stage failed for a reason that a user can act on.
    """
    recipe, run = context.recipe, context.run
    for stage in STAGE_NAMES[: STAGE_NAMES.index(last) + 1]:
        if run.done(stage) is not None:
            console().print(f"{stage}: done before")
        else:
            set_seed(recipe.seed)
            count = threads.fit()
            started = perf_counter()
            try:
                report = WORK[stage](context)
            except Exception as error:
                clear = explained(error, stage, recipe, run.path)
                if clear is None:
                    raise
                raise clear from None
            release_memory()
            if is_main():
                finish(run, stage, {**report, "threads": count, "seconds": round(perf_counter() - started, 1)}, recipe)
        if is_main():
            drop_scratch(run, stage)
        wait()


def _choose_dtype(recipe: Recipe, run: RunFolder) -> None:
    """Decide what `backbone.dtype: auto` is in this run, and record it."""
    settings = recipe.backbone
    config = None if settings.path is None else read_config(find_backbone(settings.path, settings.revision))
    chosen = chosen_dtype(settings, config)
    run.update(computing=ComputingRecord(dtype=chosen.dtype, why=chosen.why))
    console().print(f"computing in {chosen.dtype}: {chosen.why}")


def _verify(dataset: Dataset) -> None:
    """Check that the events are those that were imported."""
    events = sum(dataset.info.splits[split].events for split in SPLITS)
    if events < _LARGE:
        verify(dataset)
        return
    with progress_bar("verify the dataset", events) as advance:
        verify(dataset, advance)
