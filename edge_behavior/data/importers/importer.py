"""`import_log`: from a log file to a dataset folder, which appears complete or not at all.

Picks the loader for a format; the loaders know the formats, `write` the rest.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from edge_behavior.core.events import clean_place
from edge_behavior.data.duck import Database, check_work_folder, printable, user_errors
from edge_behavior.data.importers.app_usage import load_app_usage
from edge_behavior.data.importers.generic import load_parquet, load_text
from edge_behavior.data.importers.loaded_log import LoadedLog
from edge_behavior.data.importers.options import CELL_DEGREES, GENERIC_FORMATS, ImportOptions
from edge_behavior.data.importers.readable_log import make_readable, release_pipe
from edge_behavior.data.importers.tsmc import load_tsmc
from edge_behavior.data.importers.write import write_dataset
from edge_behavior.data.info import INFO_FILE, DatasetInfo, LogSource, PlaceInfo
from edge_behavior.errors import EdgebError
from edge_behavior.util.files import new_folder, put_folder, write_file
from edge_behavior.util.progress import step_spinner

_DEFAULTS = ImportOptions()


def import_log(
    source: Path, format: str, out: Path, options: ImportOptions = _DEFAULTS, *, force: bool = False
) -> DatasetInfo:
    """Import a log into a new dataset folder.

    Args:
        source: The log; for `app-usage` its folder or trace file. Text may be gzipped; a pipe is copied first.
        format: One of `options.FORMATS`. `csv` and `jsonl` share a reader, which goes by the content: delimited text,
            JSON lines or a JSON list.
        out: The folder to make.
        force: Replace a dataset folder at `out`.

    Returns:
        What dataset.json says.

    Raises:
        EdgebError: the log, an option or `out` is at fault; nothing is left behind.
    """
    with release_pipe(source):
        options.check(format)
        _check_source(source, format)
        check_output(out, force)
        check_work_folder(out.absolute())
    with user_errors(f"importing {printable(source)}"), new_folder(out) as scratch, step_spinner() as step:
        made, work = scratch / "dataset", scratch / "work"
        made.mkdir()
        work.mkdir()
        readable = make_readable(source, format, work, step)
        step(f"reading {printable(source)}")
        with readable.original_name(), Database(work, options.memory_limit) as database:
            log = _load(database, readable.path, format, options)
            step("hashing the source")
            files = tuple(readable.identify(file) for file in log.files)
            name = options.source_name or _name(source)
            info = write_dataset(database, log, LogSource(name, format, files), options.recorded(format), made, step)
        write_file(made / INFO_FILE, json.dumps(info.to_dict(), ensure_ascii=False, indent=1) + "\n")
        put_folder(made, out, replace=force)
    return info


def check_output(out: Path, force: bool) -> None:
    """Refuse an existing output, and even with `force` one that is not a dataset folder.

    Raises:
        EdgebError: `out` is taken.
    """
    if out.exists() or out.is_symlink():
        if not force:
            raise EdgebError(f"{out} already exists", "choose another --out, or pass --force to replace it")
        if not (out / INFO_FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
            raise EdgebError(f"{out} is not a dataset folder, so --force does not replace it", "choose another --out")


def _check_source(source: Path, format: str) -> None:
    if not source.exists():
        raise EdgebError(f"no log at {printable(source)}", "check the path")
    if source.is_dir() and format != "app-usage":
        raise EdgebError(f"{printable(source)} is a folder", f"pass the {format} file in it")
    if format == "app-usage" and not source.is_dir() and not source.is_file():
        raise EdgebError(f"{printable(source)} is not a regular file", "pass the folder that holds the dataset's files")


def _load(database: Database, source: Path, format: str, options: ImportOptions) -> LoadedLog:
    if format in GENERIC_FORMATS:
        load = load_parquet if format == "parquet" else load_text
        return load(database, source, options.mapped, options.clock)
    if format == "tsmc2014":
        log = load_tsmc(database, source, CELL_DEGREES if options.cell_degrees is None else options.cell_degrees)
    else:
        log = load_app_usage(database, source)
    return log if options.places else _without_places(database, log)


def _without_places(database: Database, log: LoadedLog) -> LoadedLog:
    database.execute("ALTER TABLE log DROP COLUMN place")
    database.execute("ALTER TABLE log ADD COLUMN place VARCHAR")
    return replace(log, place=PlaceInfo(kind="none", count=0), place_name=clean_place)


def _name(source: Path) -> str:
    return printable(Path(source.resolve().name if source.is_file() or source.is_dir() else source.name))
