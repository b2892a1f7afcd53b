"""From a log file to a dataset folder: formats, options, and the folder written at once or not at all.

Knows which loader reads which format; the loaders know the formats, `_write` the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_behavior.core.clock import Clock, make_clock
from edge_behavior.core.events import clean_place
from edge_behavior.data.dataset import INFO_FILE, SCHEMA_VERSION, SPLITS
from edge_behavior.data.duck import Engine, check_memory_limit, check_work_folder, printable, user_errors
from edge_behavior.data.importers.app_usage import load_app_usage
from edge_behavior.data.importers.arrival import arrive, released
from edge_behavior.data.importers.generic import ColumnMap, check_columns, load_parquet, load_text
from edge_behavior.data.importers.source import Source
from edge_behavior.data.importers.split import SPLIT_KINDS
from edge_behavior.data.importers.tsmc import load_tsmc
from edge_behavior.data.importers.values import check_policy
from edge_behavior.data.importers.write import Rules, write_dataset
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.util.files import new_folder, put_folder, write_file
from edge_behavior.util.progress import step_spinner

__all__ = ["FORMATS", "ColumnMap", "check_numbers", "check_output", "import_log"]

FORMATS = ("csv", "jsonl", "parquet", "tsmc2014", "app-usage")
_GENERIC: dict[str, Callable[[Engine, Path, ColumnMap, Clock], Source]] = {
    "csv": load_text,
    "jsonl": load_text,
    "parquet": load_parquet,
}
APP_USAGE_MERGE_SECONDS = 60
# Beyond these a number is a slip, and some would not fit where they are used.
MAX_SEED, MAX_MIN_EVENTS, MAX_MERGE_SECONDS = 2**63 - 1, 10**9, 366 * 86_400


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
    timezone: str | None = None,
    time_unit: str | None = None,
    missing: str = "refuse",
    force: bool = False,
    memory_limit: str | None = None,
    source_name: str | None = None,
) -> dict[str, Any]:
    """Import a log into a new dataset folder.

    Args:
        source: The log; for `app-usage` its folder or trace file. Text may be gzip; a pipe is copied first.
        format: One of FORMATS. `csv` and `jsonl` are the same reader, which goes by the content: delimited text, JSON
            lines or a JSON list.
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
        timezone: Of a generic log whose times carry offsets or count from 1970: the users' zone, or `as-written`;
            see `clock.make_clock`. None: the times are local already.
        time_unit: What numbers in a generic log's time column count since 1970: s, ms, us or ns.
        missing: What to do with events whose behavior is empty or a word like NULL: refuse, drop or keep (as a label).
        force: Replace a dataset folder at `out`.
        memory_limit: DuckDB's, like "8GB"; None for half of the free memory, at most 8 GiB.
        source_name: Recorded as the source instead of the file's name.

    Returns:
        What dataset.json says.

    Raises:
        EdgebError: the log, an option or `out` is at fault; nothing is left behind.
    """
    with released(source):
        _check_source(source, format)
        check_numbers(seed, min_events, memory_limit, cell_degrees, merge_seconds)
        clock = _check_generic(format, columns, timezone, time_unit)
        check_policy(missing)
        _check_split(split, min_events)
        check_output(out, force)
        check_work_folder(out.absolute())
    mapped = columns or ColumnMap()
    if not places:
        mapped = replace(mapped, place=None)
    if merge_seconds is None:
        merge_seconds = APP_USAGE_MERGE_SECONDS if format == "app-usage" else 0
    options: dict[str, Any] = {
        "seed": seed, "min_events": min_events, "merge_seconds": merge_seconds, "missing": missing
    }  # fmt: skip
    if format in _GENERIC:
        options |= {"columns": mapped.named, "timezone": timezone, "time_unit": time_unit}
    if split != "users":
        options["split"] = split
    if mapped.group is not None:
        options["group_column"] = mapped.group
    rules = Rules(seed, min_events, merge_seconds, missing, split)
    with user_errors(f"importing {printable(source)}"), new_folder(out) as scratch, step_spinner() as step:
        made, work = scratch / "dataset", scratch / "work"
        made.mkdir()
        work.mkdir()
        log = arrive(source, format, work, step)
        step(f"reading {printable(source)}")
        with log.named(), Engine(work, memory_limit) as engine:
            loaded = _load(engine, log.path, format, mapped, clock, cell_degrees)
            if not places and format not in _GENERIC:
                loaded = _without_places(engine, loaded)
            content = write_dataset(engine, loaded, rules, made, step)
        step("hashing the source")
        name = source.resolve().name if source.is_file() or source.is_dir() else source.name
        info = {
            # What version 1 cannot say is kept from readers that know no more.
            "schema_version": SCHEMA_VERSION if split != "users" or mapped.group is not None or not places else 1,
            "source": {
                "name": source_name or printable(Path(name)),
                "format": format,
                "files": [log.identify(file) for file in loaded.files],
            },
            "options": options,
            **content,
        }
        text = json.dumps(info, ensure_ascii=False, indent=1)
        write_file(made / INFO_FILE, text + "\n")
        put_folder(made, out, replace=force)
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


def _check_source(source: Path, format: str) -> None:
    if format not in FORMATS:
        raise EdgebError(f"unknown format '{format}'", nearest(format, FORMATS))
    if not source.exists():
        raise EdgebError(f"no log at {printable(source)}", "check the path")
    if source.is_dir() and format != "app-usage":
        raise EdgebError(f"{printable(source)} is a folder", f"pass the {format} file in it")
    if format == "app-usage" and not source.is_dir() and not source.is_file():
        raise EdgebError(f"{printable(source)} is no regular file", "pass the folder that holds the dataset's files")


def _check_generic(format: str, columns: ColumnMap | None, timezone: str | None, time_unit: str | None) -> Clock:
    if format not in _GENERIC:
        if columns is not None:
            raise EdgebError(f"column names do not apply to {format}", "its layout is fixed; drop the --…-column flags")
        if timezone is not None or time_unit is not None:
            raise EdgebError(
                f"--timezone and --time-unit do not apply to {format}", "its times have one known meaning; drop them"
            )
    if columns is not None:
        check_columns(columns)
    return make_clock(timezone, time_unit)


def check_numbers(
    seed: int,
    min_events: int,
    memory_limit: str | None = None,
    cell_degrees: float = 0.03,
    merge_seconds: int | None = None,
) -> None:
    """Refuse options of `import_log` that are out of range.

    Raises:
        EdgebError: naming the option and what it takes.
    """
    if memory_limit is not None:
        check_memory_limit(memory_limit)
    if not 0 <= seed <= MAX_SEED:
        raise EdgebError(f"seed is {seed}", "use 0 to 2^63 - 1")
    if not 2 <= min_events <= MAX_MIN_EVENTS:
        raise EdgebError(
            f"min_events is {min_events}", f"use 2 to {MAX_MIN_EVENTS}; 21 gives each user one full window"
        )
    if not 1e-4 <= cell_degrees <= 180:
        raise EdgebError(f"cell_degrees is {cell_degrees}", "use 0.0001 to 180; 0.03 is about 3 km")
    if merge_seconds is not None and not 0 <= merge_seconds <= MAX_MERGE_SECONDS:
        raise EdgebError(
            f"merge_seconds is {merge_seconds}", f"use 0, which keeps repeats, to {MAX_MERGE_SECONDS} (a year)"
        )


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


def _load(engine: Engine, source: Path, format: str, columns: ColumnMap, clock: Clock, cell_degrees: float) -> Source:
    if format == "tsmc2014":
        return load_tsmc(engine, source, cell_degrees)
    if format == "app-usage":
        return load_app_usage(engine, source)
    return _GENERIC[format](engine, source, columns, clock)
