"""Records of delimited text with a header: comma, tab, semicolon or bar; quoting, and Excel's `sep=` line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.records.text_files import TextFile

DELIMITERS = (",", "\t", ";", "|")
_FIX_QUOTES = "quote fields that contain the delimiter or a quote, and drop broken lines"
# DuckDB's limit for a line. Python's default is a sixteenth of it, so that a history could not have what a log may.
_MAX_FIELD = 2_000_000


@dataclass(frozen=True)
class TableFile:
    """A delimited file.

    Attributes:
        names: The header, without outer space.
        header_line: The last line of the header, counted from 1; records come after it.
        plain_header: Whether the header is a single line.
    """

    text: TextFile
    names: tuple[str, ...]
    delimiter: str
    header_line: int
    plain_header: bool

    @property
    def has_optional_fields(self) -> bool:
        """Whether a later record may have a field that `names` lacks."""
        return False

    def records(self, wanted: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """The first line number and the `wanted` fields of each record.

        Raises:
            EdgebError: naming the line with too few or too many fields, or with broken quotes.
        """
        index = [self.names.index(name) for name in wanted]
        count = len(self.names)
        for line, _, record in _rows(self.text, self.delimiter):
            if line <= self.header_line:
                continue
            # Some programs end every line with a delimiter.
            if len(record) != count and not (len(record) == count + 1 and not record[-1].strip()):
                raise EdgebError(
                    f"{self.text.path}:{line}: {len(record)} fields where {count} are expected", _FIX_QUOTES
                )
            yield line, [record[i] for i in index]


def open_table(text: TextFile, wanted: Sequence[str]) -> TableFile:
    """Detect the delimiter and read the header.

    The delimiter is the one that `sep=` names, else the one that gives most of the `wanted` columns, else the most
    frequent one in the header.

    Raises:
        EdgebError: the header is missing or broken.
    """
    with text.open() as file:
        line = next((line.strip("\r\n") for line in file if line.strip()), "")
    # Not `strip()`, because the named delimiter may be a tab.
    named = line.strip(" ").strip('"')
    if named.lower().startswith("sep=") and len(named) == len("sep=") + 1 and not named[-1].isalnum():
        return _table(text, named[-1], skipped=1)
    tables, faults = [], []
    for delimiter in sorted(DELIMITERS, key=line.count, reverse=True):
        try:
            tables.append(_table(text, delimiter, skipped=0))
        except EdgebError as error:
            # A wrong delimiter may cut a quoted field.
            faults.append(error)
    if not tables:
        raise faults[0]
    return max(tables, key=lambda t: (sum(name in t.names for name in wanted), line.count(t.delimiter)))


def _table(text: TextFile, delimiter: str, skipped: int) -> TableFile:
    rows = _rows(text, delimiter)
    for _ in range(skipped):
        next(rows)
    try:
        start, end, names = next(rows)
    except StopIteration:
        raise EdgebError(f"{text.path} has no header", "name the columns in the first line") from None
    return TableFile(text, tuple(name.strip() for name in names), delimiter, end, start == end)


def _rows(text: TextFile, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    """(first line number, last line number, fields) of every record that is not blank."""
    start = 1
    csv.field_size_limit(_MAX_FIELD)
    with text.open() as file:
        try:
            reader: Any = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for record in reader:
                if len(record) > 1 or (record and record[0].strip()):
                    yield start, reader.line_num, record
                start = reader.line_num + 1
        except csv.Error as error:
            raise EdgebError(f"{text.path}:{start}: {error}", _FIX_QUOTES) from None
