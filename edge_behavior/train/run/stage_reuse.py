"""Finished stages that one run may take over from another, so that equal work is done once.

A stage is a function of the recipe fields it reads, the seed and the dataset. Two runs that agree in these get the
same stage; a run that begins can then start from a copy. Every run folder stays complete: deleting one harms no other.
Knows no trainer; decides by recipes and files alone.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.inputs import digests
from edge_behavior.train.run.stage_record import finish, stage_key

SHARED_STAGES = ("backbone", "a_tuning")


def take_over(run: RunFolder, recipe: Recipe, others: Iterable[tuple[RunFolder, Recipe]]) -> list[str]:
    """Copy stages that `run` has not done from runs that have, and mark them done.

    All stages come from one run, so that an adapter always lies on the very backbone it was trained on; a backbone
    that is here already must be the other run's byte for byte.

    Args:
        run: A run that was begun with `recipe`.
        recipe: Its recipe.
        others: Runs to take from, with theirs.

    Returns:
        Names of the stages taken over.
    """
    wanted = [stage for stage in SHARED_STAGES if run.done(stage) is None]
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
    """The wanted stages that `other` has finished and that are the same work; none after the first it lacks."""
    fingerprint = run.state["dataset"]["fingerprint"]
    if other.state["dataset"]["fingerprint"] != fingerprint:
        return []
    found: list[str] = []
    for stage in wanted:
        if other.done(stage) is None:
            break
        # As it was when the stage was done; the file at a path may be another by now.
        known = other.state.get("made", {}).get(stage, {}).get("key") or stage_key(stage, its_recipe, fingerprint)
        if stage_key(stage, recipe, fingerprint, digests(run.state.get("inputs", {}))) != known:
            break
        found.append(stage)
    return found


def _backbone_fits(run: RunFolder, other: RunFolder, stages: list[str]) -> bool:
    if "backbone" in stages or not run.state["backbone"]["standin"]:
        return True
    ours, theirs = (sorted(Path(r.backbone).glob("*.safetensors")) for r in (run, other))
    return [p.name for p in ours] == [p.name for p in theirs] and all(
        filecmp.cmp(a, b, shallow=False) for a, b in zip(ours, theirs, strict=True)
    )


def _copy_stage(stage: str, donor: RunFolder, run: RunFolder) -> None:
    for part in (Path(stage), Path("logs") / stage):
        source, target = donor.path / part, run.path / part
        if not source.is_dir():
            continue
        making = target.with_name(f".{target.name}.copy")
        shutil.rmtree(making, ignore_errors=True)
        making.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, making, copy_function=_link_or_copy)
        shutil.rmtree(target, ignore_errors=True)
        making.rename(target)


def _link_or_copy(source: str, target: str) -> None:
    """Weights of a finished stage are never written again, so two runs may share their bytes on disk."""
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
        except OSError:
            # Another file system, or one without links.
            pass
        else:
            return
    shutil.copy2(source, target)
