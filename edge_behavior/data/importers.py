"""From a log file to a dataset folder: formats, options, and the folder written at once or not at all.

Knows which loader reads which format; the loaders know the formats, `_write` the rest.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from edge_behavior.checksums import file_sha256
from edge_behavior.data._app_usage import load_app_usage
from edge_behavior.data._engine import Engine, user_errors
from edge_behavior.data._generic import ColumnMap, load_csv, load_jsonl, load_parquet
from edge_behavior.data._source import Source
from edge_behavior.data._split import SPLIT_KINDS
from edge_behavior.data._tsmc import load_tsmc
from edge_behavior.data._write import Rules, write_dataset
from edge_behavior.data.dataset import INFO_FILE, SCHEMA_VERSION, SPLITS
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.events import clean_place

__all__ = ["FORMATS", "ColumnMap", "check_output", "import_log"]

FORMATS = ("csv", "jsonl", "parquet", "tsmc2014", "app-usage")
_GENERIC: dict[str, Callable[[Engine, Path, ColumnMap], Source]] = {
    "csv": load_csv,
    "jsonl": load_jsonl,
    "parquet": load_parquet,
}
APP_USAGE_MERGE_SECONDS = 60


def import_log(
    source: Path,
    format: str,
    out: Path,
    *,
    columns: ColumnMap | None = None,
    places: bool = True,
    split: str = "users",
    seed: int = 0,
    min_events: int = 21,
    cell_degrees: float = 0.03,
    merge_seconds: int | None = None,
    force: bool = False,
    memory_limit: str | None = None,
    source_name: str | None = None,
) -> dict[str, Any]:
    """Import a log into a new dataset folder.

    Args:
        source: The log; for `app-usage` its folder or trace file. Text may be gzip.
        format: One of FORMATS.
        out: The folder to make.
        columns: Column names of a generic log.
        places: Whether events have a place. Without, none is looked for.
        split: `users`: 8:1:1 of the users, or of their groups. `time`: the last two tenths of every user's events are
            validation and test.
        seed: Of the split by users.
        min_events: Users with fewer events are counted and skipped; at least 2, and 3 where the split is by time.
        cell_degrees: Size of a place cell, for `tsmc2014`.
        merge_seconds: Drop an event that repeats the user's previous behavior and place within so many seconds.
            None: 60 for `app-usage`, whose rows are network requests, else 0.
        force: Replace a dataset folder at `out`.
        memory_limit: DuckDB's, like "8GB"; None for half of the free memory, at most 8 GiB.
        source_name: Recorded as the source instead of the file's name.

    Returns:
        What dataset.json says.

    Raises:
        EdgebError: the log, an option or `out` is at fault; nothing is left behind.
    """
    _check_options(source, format, columns, seed, min_events, cell_degrees, merge_seconds)
    _check_split(split, min_events)
    check_output(out, force)
    mapped = columns or ColumnMap()
    if not places:
        mapped = replace(mapped, place=None)
    if merge_seconds is None:
        merge_seconds = APP_USAGE_MERGE_SECONDS if format == "app-usage" else 0
    options: dict[str, Any] = {"seed": seed, "min_events": min_events, "merge_seconds": merge_seconds}
    if format in _GENERIC:
        options["columns"] = mapped.named
    if split != "users":
        options["split"] = split
    if mapped.group is not None:
        options["group_column"] = mapped.group
    rules = Rules(seed, min_events, merge_seconds, split)
    with user_errors(f"importing {source}"), _scratch(out) as scratch, _steps() as step:
        made, work = scratch / "dataset", scratch / "work"
        made.mkdir()
        work.mkdir()
        step(f"reading {source.name}")
        with Engine(work, memory_limit) as engine:
            loaded = _load(engine, source, format, mapped, cell_degrees)
            if not places and format not in _GENERIC:
                loaded = _without_places(engine, loaded)
            content = write_dataset(engine, loaded, rules, made, step)
        step("hashing the source")
        info = {
            # What version 1 cannot say is kept from readers that know no more.
            "schema_version": SCHEMA_VERSION if split != "users" or mapped.group is not None or not places else 1,
            "source": {
                "name": source_name or source.resolve().name,
                "format": format,
                "files": [_identify(file) for file in loaded.files],
            },
            "options": options,
            **content,
        }
        text = json.dumps(info, ensure_ascii=False, indent=1)
        (made / INFO_FILE).write_text(text + "\n", encoding="utf-8")
        _publish(made, out, scratch)
    return info


def check_output(out: Path, force: bool) -> None:
    """Refuse an output folder that exists, and even with `force` one that is no dataset.

    Raises:
        EdgebError: `out` is taken, or its parent is not a folder.
    """
    if out.exists() or out.is_symlink():
        if not force:
            raise EdgebError(f"{out} already exists", "choose another --out, or pass --force to replace it")
        if not (out / INFO_FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
            raise EdgebError(f"{out} is not a dataset folder, so --force leaves it alone", "choose another --out")


def _check_options(
    source: Path,
    format: str,
    columns: ColumnMap | None,
    seed: int,
    min_events: int,
    cell_degrees: float,
    merge_seconds: int | None,
) -> None:
    if format not in FORMATS:
        raise EdgebError(f"unknown format '{format}'", nearest(format, FORMATS))
    if not source.exists():
        raise EdgebError(f"no log at {source}", "check the path")
    if source.is_dir() and format != "app-usage":
        raise EdgebError(f"{source} is a folder", f"pass the {format} file in it")
    if columns is not None and format not in _GENERIC:
        raise EdgebError(f"column names do not apply to {format}", "its layout is fixed; drop the --…-column flags")
    if seed < 0:
        raise EdgebError(f"seed is {seed}", "use 0 or more")
    if min_events < 2:
        raise EdgebError(f"min_events is {min_events}", "use at least 2; 21 gives each user one full window")
    if not 1e-4 <= cell_degrees <= 180:
        raise EdgebError(f"cell_degrees is {cell_degrees}", "use 0.0001 to 180; 0.03 is about 3 km")
    if merge_seconds is not None and merge_seconds < 0:
        raise EdgebError(f"merge_seconds is {merge_seconds}", "use 0 to keep repeats, or more")


def _check_split(split: str, min_events: int) -> None:
    if split not in SPLIT_KINDS:
        raise EdgebError(f"unknown split '{split}'", nearest(split, SPLIT_KINDS))
    if split == "time" and min_events < len(SPLITS):
        raise EdgebError(
            f"min_events is {min_events}, and a split by time gives every user events in {len(SPLITS)} parts",
            f"use at least {len(SPLITS)}",
        )


def _without_places(engine: Engine, source: Source) -> Source:
    engine.rows("ALTER TABLE log DROP COLUMN place")
    engine.rows("ALTER TABLE log ADD COLUMN place VARCHAR")
    return replace(source, place={"kind": "none"}, place_name=clean_place)


def _load(engine: Engine, source: Path, format: str, columns: ColumnMap, cell_degrees: float) -> Source:
    if format == "tsmc2014":
        return load_tsmc(engine, source, cell_degrees)
    if format == "app-usage":
        return load_app_usage(engine, source)
    return _GENERIC[format](engine, source, columns)


def _identify(file: Path) -> dict[str, Any]:
    return {"name": file.name, "sha256": file_sha256(file), "bytes": file.stat().st_size}


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside `out`, on its disk, gone afterwards."""
    folder = out.absolute().parent / f".{out.name}.partial-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(made: Path, out: Path, scratch: Path) -> None:
    """Put the finished folder in place; an old one goes to the scratch folder first and is deleted with it."""
    replaced = scratch / "replaced"
    if out.exists():
        out.rename(replaced)
    try:
        made.rename(out)
    except BaseException:
        if replaced.exists():
            replaced.rename(out)
        raise


@contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Show on stderr which stage runs; on a terminal only."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        yield lambda text: progress.update(task, description=text)
