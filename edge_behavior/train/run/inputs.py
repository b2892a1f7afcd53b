"""What a recipe points to outside the run: a backbone and a conversation file, known by their content.

Every file is hashed whole, once. Later a file of the same size and time of change is taken for the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_behavior.hf.folder import fetched_before, find_backbone, is_commit, local_folder, model_files
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import found_beside
from edge_behavior.train.run.provenance import BACKBONE_FIELD
from edge_behavior.train.trainer.processes import is_main
from edge_behavior.util.checksums import sha256_with_bar
from edge_behavior.util.files import expand_home

# By field, then by file name: sha256, size, mtime_ns.
Inputs = dict[str, dict[str, dict[str, Any]]]


def read_inputs(recipe: Recipe, known: Inputs | None = None) -> Inputs:
    """Checksums of the files that the recipe's paths lead to; a path that leads nowhere has none.

    Args:
        known: What was read before; files of the same size and time of change are not read again.
    """
    found: Inputs = {}
    for field, folder, names in _files(recipe):
        before = (known or {}).get(field, {})
        found[field] = {}
        for name in names:
            status = (folder / name).stat()
            is_as_before = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
            old = before.get(name, {})
            same = all(old.get(key) == value for key, value in is_as_before.items())
            checksum = old["sha256"] if same else _checksum(folder / name, *is_as_before.values())
            found[field][name] = {"sha256": checksum, **is_as_before}
    return found


def shown_sha256(path: Path) -> str:
    """SHA-256 of a file, with a progress bar for a large one."""
    status = path.stat()
    return _checksum(path, status.st_size, status.st_mtime_ns)


def located(recipe: Recipe, run: Path | None = None) -> Recipe:
    """The recipe with absolute paths, so that a run can be used from any folder; hub names stay.

    Args:
        run: A run that has the recipe already. Older versions left paths relative, so they are looked for beside it,
            too; what is nowhere stays as it is.

    Raises:
        EdgebError: without a run, a backbone that is neither a folder here nor a hub name.
    """
    backbone, talk = recipe.backbone.path, recipe.a_tuning.aux_path
    if backbone is not None and recipe.backbone.revision is None:
        backbone = str(local_folder(backbone) or backbone) if run is None else found_beside(backbone, run)
    if talk is not None:
        talk = str(expand_home(talk).resolve()) if run is None else found_beside(talk, run)
    return recipe.model_copy(
        update={
            "backbone": recipe.backbone.model_copy(update={"path": backbone}),
            "a_tuning": recipe.a_tuning.model_copy(update={"aux_path": talk}),
        }
    )


def pinned(recipe: Recipe) -> Recipe:
    """`located`, and a backbone of the hub at the commit that its revision names today.

    Raises:
        EdgebError: see `located`; or a hub name that can be had neither from the hub nor from its cache.
    """
    found = located(recipe)
    settings = found.backbone
    if settings.path is None or is_commit(settings.revision) or local_folder(settings.path, settings.revision):
        return found
    commit = find_backbone(settings.path, settings.revision, weights=False).name
    return found.model_copy(update={"backbone": settings.model_copy(update={"revision": commit})})


def digests(inputs: Inputs) -> dict[str, str]:
    """One digest per field, of names and contents."""
    return {
        field: hashlib.sha256(json.dumps(_contents(files), sort_keys=True).encode()).hexdigest()
        for field, files in inputs.items()
    }


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Name of a file that is not what it was, that is new, or that is gone."""
    old, new = _contents(before), _contents(now)
    return next((name for name in sorted({*old, *new}) if old.get(name) != new.get(name)), None)


def _contents(files: Mapping[str, Any]) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in files.items()}


def _files(recipe: Recipe) -> list[tuple[str, Path, list[str]]]:
    """(field, folder, file names) of every path that is there."""
    found = []
    settings, talk = recipe.backbone, recipe.a_tuning.aux_path
    folder = None if settings.path is None else fetched_before(settings.path, settings.revision)
    if folder is not None:
        found.append((BACKBONE_FIELD, folder, model_files(folder)))
    if talk is not None and recipe.a_tuning.aux_ratio and Path(talk).is_file():
        found.append(("a_tuning.aux_path", Path(talk).parent, [Path(talk).name]))
    return found


@lru_cache(maxsize=1024)
def _checksum(path: Path, size: int, mtime_ns: int) -> str:
    """An ablation asks for the same files over and over."""
    return sha256_with_bar(path, hidden=not is_main())
