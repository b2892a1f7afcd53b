"""Copies finished stages from one run to another that would do the same work.

A stage is a function of the recipe fields it reads, the seed and the dataset; runs that agree on these get the same
result. Every run folder stays complete: deleting one harms no other. Knows no trainer; decides by recipes and files.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder, replaced_folder
from edge_behavior.train.run.inputs import digests
from edge_behavior.train.run.stage_record import finish, stage_key
from edge_behavior.train.stage_list import STAGES


def take_over(run: RunFolder, recipe: Recipe, others: Iterable[tuple[RunFolder, Recipe]]) -> list[str]:
    """Copy shareable stages that `run` has not done from another run, and mark them done.

    All stages come from one run, so that an adapter always belongs to the very backbone it was trained on; a backbone
    that `run` has already must equal the other run's byte for byte.

    Args:
        run: A run that was begun with `recipe`.
        recipe: Its recipe.
        others: Runs to copy from, with their recipes.

    Returns:
        Names of the copied stages.
    """
    wanted = [stage.name for stage in STAGES if stage.shareable and run.done(stage.name) is None]
    best: tuple[list[str], RunFolder] | None = None
    for other, its_recipe in others:
        found = _offered(wanted, run, recipe, other, its_recipe)
        if len(found) > len(best[0] if best else ()) and _backbone_fits(run, other, found):
            best = found, other
    if best is None:
        return []
    stages, donor = best
    for stage in stages:
        _copy_stage(stage, donor, run)
        report = donor.done(stage)
        finish(run, stage, {**(report or {}), "copied_from": donor.path.name}, recipe)
    return stages


def _offered(wanted: list[str], run: RunFolder, recipe: Recipe, other: RunFolder, its_recipe: Recipe) -> list[str]:
    """The wanted stages that are finished in `other` and the same work there, up to the first that is not."""
    state, held = run.state, other.state
    if held.fingerprint != state.fingerprint:
        return []
    found: list[str] = []
    for stage in wanted:
        if stage not in held.done:
            break
        # The key on record, since the file at a path may be another by now.
        record = held.made.get(stage)
        known = stage_key(stage, its_recipe, held.fingerprint) if record is None else record.key
        if stage_key(stage, recipe, state.fingerprint, digests(state.inputs)) != known:
            break
        found.append(stage)
    return found


def _backbone_fits(run: RunFolder, other: RunFolder, stages: list[str]) -> bool:
    if "backbone" in stages or not run.state.backbone.standin:
        return True
    ours, theirs = (sorted(Path(r.backbone).glob("*.safetensors")) for r in (run, other))
    return [p.name for p in ours] == [p.name for p in theirs] and all(
        filecmp.cmp(a, b, shallow=False) for a, b in zip(ours, theirs, strict=True)
    )


def _copy_stage(stage: str, donor: RunFolder, run: RunFolder) -> None:
    for part in (Path(stage), Path("logs") / stage):
        source, target = donor.path / part, run.path / part
        if source.is_dir():
            with replaced_folder(target) as made:
                shutil.copytree(source, made, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    """Hard-link weights: those of a finished stage are never written again, so runs may share them on disk."""
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
        except OSError:
            # Another file system, or one without hard links.
            pass
        else:
            return
    shutil.copy2(source, target)
