"""Delimited text of a known layout for DuckDB: compression, encoding, delimiter, and the line of a record.

DuckDB reads the rows; Python reads a file only to locate an error.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, cast

import duckdb

from edge_behavior.data.duck import file_literal, literal
from edge_behavior.errors import EdgebError
from edge_behavior.records.text_files import GZIP_MAGIC, detect


def is_gzip(path: Path) -> bool:
    """Whether the content is gzip, whatever the file is called."""
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def _unpack(path: Path) -> str:
    """The read_csv option for a gzip file, which DuckDB would guess from its name."""
    return ", compression='gzip'" if is_gzip(path) else ""


def open_text(path: Path, encoding: str = "utf-8-sig", errors: str = "strict") -> TextIOWrapper:
    """Open a text file, decompressing gzip; line ends are left as they are."""
    opened = gzip.open if is_gzip(path) else open
    raw = cast("IO[bytes]", opened(path, "rb"))  # closed by the wrapper
    return TextIOWrapper(raw, encoding=encoding, errors=errors, newline="")


def first_line(path: Path, encoding: str = "utf-8-sig") -> str:
    """The first line that is not blank, without its line end.

    Decompresses a gzip file to its end, because DuckDB before version 2 does not notice a truncated one.

    Raises:
        EdgebError: the file is empty, not text, or a damaged gzip file.
    """
    if detect(path).encoding.startswith("utf-16"):
        raise EdgebError(f"{path} is UTF-16 text", "save it as UTF-8")
    try:
        with open_text(path, encoding) as file:
            line = next((line for line in file if line.strip()), None)
        if is_gzip(path):
            with gzip.open(path, "rb") as compressed:
                while compressed.read(1 << 20):
                    pass
    except UnicodeDecodeError:
        raise EdgebError(f"{path} is not UTF-8 text", "convert it to UTF-8, or pass its right --format") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise EdgebError(f"{path} is a damaged gzip file: {error}", "fetch it again") from None
    if line is None:
        raise EdgebError(f"{path} is empty", "pass a log with one row per event")
    return line.rstrip("\r\n")


@dataclass(frozen=True)
class Delimited:
    """A delimited text file and how to read it.

    Attributes:
        columns: Fields per record; DuckDB calls them c0, c1, ….
        header: Whether the first record names the fields.
        quote: The quote character; empty where there is no quoting.
    """

    path: Path
    columns: int
    delimiter: str
    header: bool = False
    quote: str = '"'
    encoding: str = "utf-8"

    def sql(self) -> str:
        """The file as a DuckDB table function; empty fields are NULL."""
        types = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(self.columns))
        return (
            f"read_csv({file_literal(self.path)}, auto_detect=false, columns={{{types}}}, "
            f"delim={literal(self.delimiter)}, header={str(self.header).lower()}, "
            f"quote={literal(self.quote)}, escape={literal(self.quote)}, "
            f"encoding={literal(self.encoding)}{_unpack(self.path)})"
        )

    def _records(self, errors: str = "replace") -> Iterator[tuple[int, list[str]]]:
        """Every record that is not blank, with the number of its first line."""
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        with open_text(self.path, encoding, errors) as file:
            if self.quote:
                reader = csv.reader(file, delimiter=self.delimiter, quotechar=self.quote)
            else:
                reader = csv.reader(file, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
            start = 1
            for record in reader:
                if record:
                    yield start, record
                start = reader.line_num + 1

    def locate(self, row: int) -> str:
        """`file:line` of a data row, counted from 0."""
        found = next(islice(self._records(), row + self.header, None), None)
        return f"{self.path}:{found[0]}" if found else str(self.path)

    def explain(self) -> EdgebError | None:
        """The first fault of the file as CSV, if Python finds one."""
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        last = 1
        try:
            for line, record in self._records():
                last = line
                if len(record) != self.columns and record[self.columns :] != [""]:
                    return EdgebError(
                        f"{self.path}:{line}: {len(record)} fields where {self.columns} are expected",
                        "quote fields that contain the delimiter or a quote, and drop broken lines",
                    )
        except csv.Error as error:
            return EdgebError(f"{self.path}:{last}: {error}", "drop or correct this line")
        with open_text(self.path, encoding, "surrogateescape") as file:
            for number, text in enumerate(file, 1):
                if any("\ud800" <= c <= "\udfff" for c in text):
                    return EdgebError(f"{self.path}:{number}: not UTF-8 text", "convert the file to UTF-8")
        return None


@contextmanager
def explain_faults(file: Delimited) -> Iterator[None]:
    """Replace DuckDB's error about `file` by one that names the line.

    Raises:
        EdgebError: the fault, if Python finds it; else DuckDB's own error passes.
    """
    try:
        yield
    except duckdb.InvalidInputException:
        fault = file.explain()
        if fault is None:
            raise
        raise fault from None
