"""What a recipe points to outside the run: a local backbone and a conversation file, known by their content.

Every file is hashed whole, once. Later a file of the same size and time of change is taken for the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_behavior.checksums import file_sha256
from edge_behavior.recipes import Recipe
from edge_behavior.train.progress import progress_bar

# By field, then by file name: sha256, size, mtime_ns.
Inputs = dict[str, dict[str, dict[str, Any]]]
_BACKBONE_FILES = (".json", ".safetensors", ".model", ".txt", ".jinja")
_SHOW_FROM, _MB = 256_000_000, 1_000_000


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
    backbone, talk = recipe.backbone.path, recipe.a_tuning.aux_path
    if backbone is not None and Path(backbone).is_dir():
        names = sorted(p.name for p in Path(backbone).iterdir() if p.is_file() and p.suffix in _BACKBONE_FILES)
        found.append(("backbone.path", Path(backbone), names))
    if talk is not None and recipe.a_tuning.aux_ratio and Path(talk).is_file():
        found.append(("a_tuning.aux_path", Path(talk).parent, [Path(talk).name]))
    return found


@lru_cache(maxsize=1024)
def _checksum(path: Path, size: int, mtime_ns: int) -> str:
    """An ablation asks for the same files over and over."""
    if size < _SHOW_FROM:
        return file_sha256(path)
    with progress_bar() as bar:
        task = bar.add_task(f"read {path.name}", total=size // _MB, note="MB")
        return file_sha256(path, lambda read: bar.update(task, advance=read / _MB))
