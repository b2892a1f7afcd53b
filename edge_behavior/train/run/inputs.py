"""What a recipe points to outside the run, a backbone and a conversation file, known by their content.

Every file is hashed once. Later, a file of the same size and mtime is taken for the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from edge_behavior.hf.find import absolute_name, fetched_before, find_backbone, local_folder
from edge_behavior.hf.folder import is_commit, model_files
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import found_beside
from edge_behavior.train.run.state import InputFile, Inputs
from edge_behavior.train.stage_list import BACKBONE_FIELD, CONVERSATIONS_FIELD
from edge_behavior.train.trainer.processes import is_main
from edge_behavior.util.checksums import sha256_with_bar
from edge_behavior.util.files import expand_home


def read_inputs(recipe: Recipe, known: Inputs | None = None) -> Inputs:
    """Checksums of the files that the recipe's paths lead to; a path that leads nowhere has none.

    Args:
        known: What was read before; files of the same size and mtime are not read again.
    """
    found: Inputs = {}
    for field, folder, names in _files(recipe):
        before = (known or {}).get(field, {})
        found[field] = {}
        for name in names:
            status, old = (folder / name).stat(), before.get(name)
            size, mtime = status.st_size, status.st_mtime_ns
            same = old is not None and (old.size, old.mtime_ns) == (size, mtime)
            checksum = old.sha256 if old is not None and same else _checksum(folder / name, size, mtime)
            found[field][name] = InputFile(sha256=checksum, size=size, mtime_ns=mtime)
    return found


def shown_sha256(path: Path) -> str:
    """SHA-256 of a file, with a progress bar for a large one."""
    status = path.stat()
    return _checksum(path, status.st_size, status.st_mtime_ns)


def located(recipe: Recipe, run: Path | None = None) -> Recipe:
    """The recipe with absolute paths, so that a run can be used from any folder; hub names stay.

    Args:
        run: A run that has the recipe already. Older versions recorded relative paths, so they are also looked up
            beside it; what is nowhere stays as it is.

    Raises:
        EdgebError: without a run, a backbone that is neither a local folder nor a hub name.
    """
    backbone, talk = recipe.backbone.path, recipe.a_tuning.aux_path
    if backbone is not None and recipe.backbone.revision is None:
        backbone = absolute_name(backbone) if run is None else found_beside(backbone, run)
    if talk is not None:
        talk = str(expand_home(talk).resolve()) if run is None else found_beside(talk, run)
    return recipe.model_copy(
        update={
            "backbone": recipe.backbone.model_copy(update={"path": backbone}),
            "a_tuning": recipe.a_tuning.model_copy(update={"aux_path": talk}),
        }
    )


def pinned(recipe: Recipe) -> Recipe:
    """`located`, with a hub backbone pinned to the commit that its revision names today.

    Raises:
        EdgebError: see `located`; or a hub name that neither the hub nor its cache has.
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


def first_difference(before: Mapping[str, InputFile], now: Mapping[str, InputFile]) -> str | None:
    """Name of the first file that has changed, is new, or is gone."""
    old, new = _contents(before), _contents(now)
    return next((name for name in sorted({*old, *new}) if old.get(name) != new.get(name)), None)


def _contents(files: Mapping[str, InputFile]) -> dict[str, str]:
    return {name: file.sha256 for name, file in files.items()}


def _files(recipe: Recipe) -> list[tuple[str, Path, list[str]]]:
    """(field, folder, file names) of every path that exists."""
    found = []
    settings, talk = recipe.backbone, recipe.a_tuning.aux_path
    folder = None if settings.path is None else fetched_before(settings.path, settings.revision)
    if folder is not None:
        found.append((BACKBONE_FIELD, folder, model_files(folder)))
    if talk is not None and recipe.a_tuning.aux_ratio and Path(talk).is_file():
        found.append((CONVERSATIONS_FIELD, Path(talk).parent, [Path(talk).name]))
    return found


# An ablation asks for the same files over and over.
@lru_cache(maxsize=1024)
def _checksum(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_with_bar(path, hidden=not is_main())
