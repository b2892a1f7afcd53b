"""Text logs of a fixed layout as files: compression, encoding, delimiters, and which line a record is on.

Reads whole files in Python only to say where an error is; the rows themselves are DuckDB's work.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, cast

import duckdb

from edge_behavior.data.duck import file_literal, literal
from edge_behavior.errors import EdgebError
from edge_behavior.records.text_files import GZIP_MAGIC, describe

Where = Callable[[int], str]  # row index to "file:line"


def is_gzip(path: Path) -> bool:
    """Whether the file starts as gzip does, whatever it is called."""
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def _unpack(path: Path) -> str:
    """The option that makes DuckDB unpack a gzip file, whatever it is called."""
    return ", compression='gzip'" if is_gzip(path) else ""


def open_text(path: Path, encoding: str = "utf-8-sig", errors: str = "strict") -> TextIOWrapper:
    """Open a text file, unpacking gzip; line ends are left as they are."""
    opened = gzip.open if is_gzip(path) else open
    raw = cast("IO[bytes]", opened(path, "rb"))  # closed by the wrapper
    return TextIOWrapper(raw, encoding=encoding, errors=errors, newline="")


def first_line(path: Path, encoding: str = "utf-8-sig") -> str:
    """The first line that is not blank, without its end.

    A gzip file is unpacked to its end once, because DuckDB before version 2 takes a cut one for a short one.

    Raises:
        EdgebError: the file is empty, is not text or is a damaged gzip file.
    """
    if describe(path).encoding.startswith("utf-16"):
        raise EdgebError(f"{path} is UTF-16 text", "save it as UTF-8")
    try:
        with open_text(path, encoding) as file:
            line = next((line for line in file if line.strip()), None)
        if is_gzip(path):
            with gzip.open(path, "rb") as packed:
                while packed.read(1 << 20):
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
        columns: Number of fields of every record; DuckDB sees them as c0, c1, ….
        header: Whether the first record names the fields.
        quote: The quoting character, empty for files that know no quoting.
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
        """Every record that is not blank, with the line it starts on."""
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

    def where(self, row: int) -> str:
        """`file:line` of the data row with this index."""
        found = next(islice(self._records(), row + self.header, None), None)
        return f"{self.path}:{found[0]}" if found else str(self.path)

    def explain(self) -> EdgebError | None:
        """What a CSV reader cannot accept in this file, if that can be told."""
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        last = 1
        try:
            for line, record in self._records():
                last = line
                if len(record) != self.columns and record[self.columns :] != [""]:
                    return EdgebError(
                        f"{self.path}:{line}: {len(record)} fields where {self.columns} are expected",
                        "quote fields that hold the delimiter or a quote, and drop broken lines",
                    )
        except csv.Error as error:
            return EdgebError(f"{self.path}:{last}: {error}", "drop or mend this line")
        with open_text(self.path, encoding, "surrogateescape") as file:
            for number, text in enumerate(file, 1):
                if any("\ud800" <= c <= "\udfff" for c in text):
                    return EdgebError(f"{self.path}:{number}: not UTF-8 text", "convert the file to UTF-8")
        return None


@contextmanager
def explained(file: Delimited) -> Iterator[None]:
    """Say in a user's words what DuckDB could not read in `file`, with the right line.

    Raises:
        EdgebError: the fault, where it can be found; else DuckDB's own error passes.
    """
    try:
        yield
    except duckdb.InvalidInputException:
        fault = file.explain()
        if fault is None:
            raise
        raise fault from None
