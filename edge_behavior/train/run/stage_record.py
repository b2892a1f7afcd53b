"""What a finished stage has made, as run.json records it: checksums of its files, and the key of its work.

A stage whose folder was deleted counts as not done, and so does every later one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.inputs import digests
from edge_behavior.train.run.provenance import MADE, leaves_files, made_files
from edge_behavior.train.run.recipe_changes import STAGES_IN_ORDER, field_values, reads

SCRATCH = ("checkpoints", "pool", "best")


def stage_key(stage: str, recipe: Recipe, fingerprint: str, inputs: Mapping[str, str] | None = None) -> str:
    """A hash that two runs share exactly when `stage` is the same work for both.

    Args:
        stage: One of `STAGES_IN_ORDER`.
        recipe: The run's recipe, seed included.
        fingerprint: The dataset's.
        inputs: Digest of what lies at a field's path, by field (`inputs.digests`).
    """
    fields = {name: value for name, value in field_values(recipe).items() if reads(stage, name)}
    contents = {name: digest for name, digest in (inputs or {}).items() if reads(stage, name)}
    text = json.dumps([stage, fields, fingerprint, contents], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def finish(run: RunFolder, stage: str, report: Mapping[str, Any], recipe: Recipe) -> None:
    """Mark a stage as done, and note what it has made."""
    state = run.state
    key = stage_key(stage, recipe, state["dataset"]["fingerprint"], digests(state.get("inputs", {})))
    run.finish(stage, report, {"key": key, "files": made_files(run, stage)})


def done_stages(run: RunFolder) -> list[str]:
    """Finished stages, in order."""
    return [stage for stage in STAGES_IN_ORDER if run.done(stage) is not None]


def forget_deleted(run: RunFolder) -> list[str]:
    """Take back the first stage whose folder is gone, and all after it: they lie on its weights.

    Returns:
        Names of the stages that are no longer done.
    """
    done, made = done_stages(run), run.state.get("made", {})
    gone = [stage for stage in done if leaves_files(run, stage) and not _place(run, stage).exists()]
    if not gone:
        return []
    undone = done[done.index(gone[0]) :]
    for stage in STAGES_IN_ORDER[STAGES_IN_ORDER.index(gone[0]) :]:
        for name in SCRATCH:
            shutil.rmtree(run.path / stage / name, ignore_errors=True)
    state = run.state
    run.update(
        done={stage: report for stage, report in state["done"].items() if stage not in undone},
        made={stage: entry for stage, entry in made.items() if stage not in undone},
    )
    return undone


def check_made(run: RunFolder) -> None:
    """See that every finished stage's files are those that it wrote; runs of older versions have no record.

    Raises:
        EdgebError: naming the first file that is not.
    """
    made = run.state.get("made", {})
    for stage in done_stages(run):
        recorded = made.get(stage, {}).get("files", {})
        now = made_files(run, stage) if recorded else {}
        for name, checksum in recorded.items():
            if now.get(name) != checksum:
                what = "is not the file that" if name in now else "is missing, which"
                hint = f"put it back, or delete {_place(run, stage)}: --resume then does {stage} and what follows again"
                raise EdgebError(f"{run.path / name} {what} {stage} wrote", hint)


def _place(run: RunFolder, stage: str) -> Path:
    return run.path / MADE[stage]
