"""What run.json records of a finished stage: checksums of its output, and the key of its work.

A stage whose output was deleted counts as not done, and so does every later one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.inputs import digests
from edge_behavior.train.run.provenance import made_files, output_of
from edge_behavior.train.run.recipe_changes import field_values
from edge_behavior.train.run.state import StageRecord
from edge_behavior.train.stage_list import STAGE_NAMES, stage_named


def stage_key(stage: str, recipe: Recipe, fingerprint: str | None, inputs: Mapping[str, str] | None = None) -> str:
    """A hash that two runs share exactly when `stage` is the same work for both.

    Args:
        stage: A name of `STAGES`.
        recipe: The run's recipe, seed included.
        fingerprint: The dataset's.
        inputs: Digest of the files that a field points to, by field (`inputs.digests`).
    """
    reads = stage_named(stage).reads
    fields = {name: value for name, value in field_values(recipe).items() if reads(name)}
    contents = {name: digest for name, digest in (inputs or {}).items() if reads(name)}
    text = json.dumps([stage, fields, fingerprint, contents], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def finish(run: RunFolder, stage: str, report: Mapping[str, Any], recipe: Recipe) -> None:
    """Mark a stage as done and record what it has made."""
    state = run.state
    key = stage_key(stage, recipe, state.fingerprint, digests(state.inputs))
    run.finish(stage, report, StageRecord(key=key, files=made_files(run, stage)))


def done_stages(run: RunFolder) -> list[str]:
    """Finished stages, in order."""
    done = run.state.done
    return [stage for stage in STAGE_NAMES if stage in done]


def drop_scratch(run: RunFolder, stage: str) -> None:
    """Delete what only an unfinished stage needs: checkpoints, which hold pickled state, and scored windows."""
    for name in stage_named(stage).scratch:
        shutil.rmtree(run.path / name, ignore_errors=True)


def forget_deleted(run: RunFolder) -> list[str]:
    """Undo the first stage whose output is gone and all stages after it, which build on its weights.

    Returns:
        Names of the stages that are no longer done.
    """
    done = done_stages(run)
    outputs = {stage: output_of(run, stage) for stage in done}
    gone = [stage for stage, output in outputs.items() if output is not None and not output.exists()]
    if not gone:
        return []
    undone = STAGE_NAMES[STAGE_NAMES.index(gone[0]) :]
    for stage in undone:
        drop_scratch(run, stage)
    state = run.state
    run.update(
        done={stage: report for stage, report in state.done.items() if stage not in undone},
        made={stage: record for stage, record in state.made.items() if stage not in undone},
    )
    return [stage for stage in done if stage in undone]


def check_made(run: RunFolder) -> None:
    """Check that the output of every finished stage is what it wrote; runs of older versions have no record.

    Raises:
        EdgebError: naming the first file that is not.
    """
    made = run.state.made
    for stage in done_stages(run):
        output = output_of(run, stage)
        if output is None or stage not in made:
            continue
        now = made_files(run, stage)
        for name, checksum in made[stage].files.items():
            if now.get(name) != checksum:
                what = "is not the file that" if name in now else "is missing, which"
                hint = f"put it back, or delete {output}: --resume then redoes {stage} and what follows"
                raise EdgebError(f"{run.path / name} {what} {stage} wrote", hint)
