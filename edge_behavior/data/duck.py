"""DuckDB as this package uses it: bounded memory, spilling to a scratch folder, errors a user can act on.

Knows nothing of logs or datasets. Results are always fetched whole or streamed as Arrow batches, because an open
result owns its connection.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import duckdb
import psutil
import pyarrow as pa

from edge_behavior.errors import EdgebError
from edge_behavior.util.cpus import allowed_cpus

T = TypeVar("T")

MAX_MEMORY = 8 * 2**30
MIN_MEMORY = 64 * 10**6
BATCH_ROWS = 1_000_000
_BYTES = {f"{letter}{i}B": (2**10 if i else 10**3) ** p for p, letter in enumerate("KMGT", 1) for i in ("", "I")}
_SIZE = re.compile(rf"([0-9]{{1,12}}(?:\.[0-9]+)?) ?({'|'.join(_BYTES)})", re.IGNORECASE)
_FREE_SPACE = "free some space, or put --out on another disk"
_DISK_FULL = re.compile(r"no space left|not enough space|max_temp_directory_size|quota exceeded", re.IGNORECASE)


def default_memory_limit() -> int:
    """Bytes DuckDB may hold before it spills: half of the memory that is free now, at most 8 GiB."""
    return min(MAX_MEMORY, int(psutil.virtual_memory().available) // 2)


def literal(text: str) -> str:
    """A string as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def file_literal(path: Path) -> str:
    """A file name as a SQL literal that names exactly this file, whatever wildcards are in it."""
    return literal(glob.escape(str(path)))


def check_memory_limit(text: str) -> None:
    """Refuse what is no size in bytes, or too little to work with.

    Raises:
        EdgebError: `text` is not like "4GB", "512 MiB", or below 64 MB.
    """
    found = _SIZE.fullmatch(text.strip())
    size = float(found[1]) * _BYTES[found[2].upper()] if found else 0.0
    if not found or size >= 2**62:
        raise EdgebError(f"memory_limit is '{text}'", "write a size, like 4GB or 512MiB")
    if size < MIN_MEMORY:
        raise EdgebError(f"memory_limit is '{text}'", f"use at least {MIN_MEMORY // 10**6}MB")


def check_work_folder(folder: Path) -> None:
    """Refuse a folder that DuckDB cannot make its files in, before it tries.

    Raises:
        EdgebError: its path is not UTF-8 or holds a character that DuckDB takes for something else.
    """
    text = str(folder)
    odd = next((c for c in "?\\" if c in text and c != os.sep), None)
    if odd is not None:
        raise EdgebError(f"DuckDB cannot work in {text}: its path holds a '{odd}'", "choose another --out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise EdgebError(f"the path of {printable(folder)} is not UTF-8", "choose another --out") from None


def printable(path: Path) -> str:
    """A path as text that any UTF-8 stream takes: bytes that are no character as `\\xfc`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Engine:
    """One DuckDB database in a scratch folder, gone with the folder.

    Args:
        folder: An existing folder for the database and for what does not fit into memory.
        memory_limit: As DuckDB writes it ("8GB"); None for half of the free memory, at most 8 GiB.
    """

    def __init__(self, folder: Path, memory_limit: str | None = None) -> None:
        self.folder = folder
        config: dict[str, Any] = {
            "temp_directory": str(folder / "spill"),
            "memory_limit": memory_limit or f"{default_memory_limit() // 2**20}MiB",
            "threads": allowed_cpus(),
            # The row ids of what is read are the order of the log.
            "preserve_insertion_order": True,
        }
        try:
            self._connection = duckdb.connect(str(folder / "log.duckdb"), config=config)
        except duckdb.Error as error:
            if _DISK_FULL.search(str(error)):
                raise EdgebError("cannot start DuckDB: the disk is full", _FREE_SPACE) from None
            raise EdgebError(f"cannot start DuckDB: {_first_line(error)}", "check --memory-limit, like 4GB") from None
        self._worker = ThreadPoolExecutor(1, "duckdb")

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown()
        self._connection.close()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement and return all its rows. DuckDB's own errors pass through."""
        return self._waited(lambda: self._connection.execute(sql).fetchall())

    def row(self, sql: str) -> tuple[Any, ...]:
        """The first row of a query that always has one."""
        return self.rows(sql)[0]

    def number(self, sql: str) -> int:
        """The one number a query returns."""
        return int(self.row(sql)[0])

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """Stream a query's result."""
        reader = self._waited(lambda: self._connection.sql(sql).to_arrow_reader(BATCH_ROWS))
        while (batch := self._waited(lambda: next(reader, None))) is not None:
            yield batch

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Create a table from columns; the types are what Arrow makes of the values."""
        self._connection.register("_columns", pa.table({key: pa.array(values) for key, values in columns.items()}))
        self.rows(f"CREATE TABLE {name} AS SELECT * FROM _columns")
        self._connection.unregister("_columns")

    def _waited(self, work: Callable[[], T]) -> T:
        """Let the worker do it. A thread that waits inside DuckDB for its threads would not see Ctrl-C or SIGTERM."""
        future = self._worker.submit(work)
        try:
            return future.result()
        finally:
            # Only a signal ends the wait before the work.
            if not future.done():
                self._connection.interrupt()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return re.sub(r"^[A-Za-z ]+ Error: ", "", lines[0]) if lines else type(error).__name__


@contextmanager
def damaged_parquet(path: Path) -> Iterator[None]:
    """Name the file where DuckDB cannot make sense of its bytes, for which it has many words and no one type.

    Raises:
        EdgebError: the file is damaged, or no Parquet.
    """
    try:
        yield
    except duckdb.InvalidInputException as error:
        raise _not_parquet(path, error) from None
    except (duckdb.ProgrammingError, duckdb.InterruptException, duckdb.OutOfMemoryException):
        raise
    except duckdb.Error as error:
        if _DISK_FULL.search(str(error)):
            raise
        raise _not_parquet(path, error) from None


def _not_parquet(path: Path, error: duckdb.Error) -> EdgebError:
    hint = "pass its right --format, or fetch the log again"
    return EdgebError(f"{path} is not a Parquet file, or a damaged one: {_first_line(error)}", hint)


@contextmanager
def user_errors(what: str) -> Iterator[None]:
    """Turn what DuckDB or the disk complains about into an EdgebError; `what` names the work being done.

    Raises:
        EdgebError: disk full, not enough memory, or any other failure of the engine.
        KeyboardInterrupt: the query was interrupted.
    """
    try:
        yield
    except (duckdb.InterruptException, RuntimeError) as error:
        # Ctrl-C during a query comes out as a plain RuntimeError.
        if isinstance(error, duckdb.InterruptException) or str(error) == "Query interrupted":
            raise KeyboardInterrupt from None
        raise
    except (EOFError, zlib.error) as error:
        raise EdgebError(f"{what}: damaged gzip file: {error}", "fetch the log again") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EdgebError(f"{what}: the disk is full", _FREE_SPACE) from None
        where = f"{error.filename}: " if error.filename else ""
        raise EdgebError(f"{what}: {where}{error.strerror or error}", "check the path and its permissions") from None
    # Other kinds of duckdb.Error are faults of this package and pass as they are.
    except (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.InvalidInputException) as error:
        if _DISK_FULL.search(str(error)):
            raise EdgebError(f"{what}: the disk is full", _FREE_SPACE) from None
        if isinstance(error, duckdb.OutOfMemoryException):
            raise EdgebError(f"{what}: {_first_line(error)}", "raise --memory-limit, or close other programs") from None
        hint = "fetch the log again" if "gzip" in str(error).lower() else "check that the file is what --format says"
        raise EdgebError(f"{what}: {_first_line(error)}", hint) from None
