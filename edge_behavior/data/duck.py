"""DuckDB with bounded memory, a scratch folder to spill to, and errors a user can act on.

Knows nothing of logs or datasets. A result is fetched whole or streamed as Arrow batches, because an open result blocks
its connection.
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
    """Bytes DuckDB may use before it spills to disk: half of the free memory, at most 8 GiB."""
    return min(MAX_MEMORY, int(psutil.virtual_memory().available) // 2)


def literal(text: str) -> str:
    """A string as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def file_literal(path: Path) -> str:
    """A file name as a SQL literal, with its wildcards escaped."""
    return literal(glob.escape(str(path)))


def check_memory_limit(text: str) -> None:
    """Refuse a text that is not a size, or too small a size.

    Raises:
        EdgebError: `text` is not like "4GB" or "512 MiB", or is below 64 MB.
    """
    found = _SIZE.fullmatch(text.strip())
    size = float(found[1]) * _BYTES[found[2].upper()] if found else 0.0
    if not found or size >= 2**62:
        raise EdgebError(f"--memory-limit is '{text}'", "write a size, like 4GB or 512MiB")
    if size < MIN_MEMORY:
        raise EdgebError(f"--memory-limit is '{text}'", f"use at least {MIN_MEMORY // 10**6}MB")


def check_work_folder(folder: Path) -> None:
    """Refuse a folder whose path DuckDB cannot handle, before it tries.

    Raises:
        EdgebError: the path is not UTF-8, or contains a character that DuckDB interprets.
    """
    text = str(folder)
    odd = next((c for c in "?\\" if c in text and c != os.sep), None)
    if odd is not None:
        raise EdgebError(f"DuckDB cannot work in {text}: its path contains a '{odd}'", "choose another --out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise EdgebError(f"the path of {printable(folder)} is not UTF-8", "choose another --out") from None


def printable(path: Path) -> str:
    """A path as UTF-8 text, with undecodable bytes as `\\xfc`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Database:
    """A temporary DuckDB database in a scratch folder, which the caller deletes.

    Args:
        folder: An existing folder for the database file and for what spills from memory.
        memory_limit: As DuckDB writes it ("8GB"); None for half of the free memory, at most 8 GiB.
    """

    def __init__(self, folder: Path, memory_limit: str | None = None) -> None:
        self.folder = folder
        config: dict[str, Any] = {
            "temp_directory": str(folder / "spill"),
            "memory_limit": memory_limit or f"{default_memory_limit() // 2**20}MiB",
            "threads": allowed_cpus(),
            # Row ids then follow the order of the log.
            "preserve_insertion_order": True,
        }
        try:
            self._connection = duckdb.connect(str(folder / "log.duckdb"), config=config)
        except duckdb.Error as error:
            if _DISK_FULL.search(str(error)):
                raise EdgebError("cannot start DuckDB: the disk is full", _FREE_SPACE) from None
            raise EdgebError(f"cannot start DuckDB: {_first_line(error)}", "check --memory-limit, like 4GB") from None
        self._worker = ThreadPoolExecutor(1, "duckdb")

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown()
        self._connection.close()

    def execute(self, sql: str) -> None:
        """Run a statement. DuckDB's own errors pass through."""
        self.query(sql)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows. DuckDB's own errors pass through."""
        return self._waited(lambda: self._connection.execute(sql).fetchall())

    def query_row(self, sql: str) -> tuple[Any, ...]:
        """The first row of a query that always has one."""
        return self.query(sql)[0]

    def query_int(self, sql: str) -> int:
        """The integer that a query returns."""
        return int(self.query_row(sql)[0])

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """Stream the result of a query."""
        reader = self._waited(lambda: self._connection.sql(sql).to_arrow_reader(BATCH_ROWS))
        while (batch := self._waited(lambda: next(reader, None))) is not None:
            yield batch

    def create_table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Create a table from columns, with the types that Arrow infers."""
        self._connection.register("_columns", pa.table({key: pa.array(values) for key, values in columns.items()}))
        self.execute(f"CREATE TABLE {name} AS SELECT * FROM _columns")
        self._connection.unregister("_columns")

    def _waited(self, work: Callable[[], T]) -> T:
        """Run `work` on the worker thread; inside DuckDB the main thread would not see Ctrl-C or SIGTERM."""
        future = self._worker.submit(work)
        try:
            return future.result()
        finally:
            # Only a signal ends the wait early.
            if not future.done():
                self._connection.interrupt()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return re.sub(r"^[A-Za-z ]+ Error: ", "", lines[0]) if lines else type(error).__name__


@contextmanager
def damaged_parquet(path: Path) -> Iterator[None]:
    """Turn DuckDB's many errors about unreadable Parquet into one that names the file.

    Raises:
        EdgebError: the file is damaged, or is not Parquet.
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
    hint = "pass the right --format, or fetch the log again"
    return EdgebError(f"{path} is not a Parquet file, or is damaged: {_first_line(error)}", hint)


@contextmanager
def user_errors(what: str) -> Iterator[None]:
    """Turn errors of DuckDB and the disk into an EdgebError; `what` names the work being done.

    Raises:
        EdgebError: the disk is full, memory runs out, or a file cannot be read or written.
        KeyboardInterrupt: the query was interrupted.
    """
    try:
        yield
    except (duckdb.InterruptException, RuntimeError) as error:
        # Ctrl-C during a query arrives as a plain RuntimeError.
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
    # Other kinds of duckdb.Error are bugs of this package and pass as they are.
    except (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.InvalidInputException) as error:
        if _DISK_FULL.search(str(error)):
            raise EdgebError(f"{what}: the disk is full", _FREE_SPACE) from None
        if isinstance(error, duckdb.OutOfMemoryException):
            raise EdgebError(f"{what}: {_first_line(error)}", "raise --memory-limit, or close other programs") from None
        hint = "fetch the log again" if "gzip" in str(error).lower() else "check that the file is what --format says"
        raise EdgebError(f"{what}: {_first_line(error)}", hint) from None
