"""Records of delimited text with a header: comma, tab, semicolon or bar, quoted or not, Excel's `sep=` line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.records.text_files import TextFile

DELIMITERS = (",", "\t", ";", "|")
_MEND = "quote fields that hold the delimiter or a quote, and drop broken lines"
# Python's own limit is a sixteenth of DuckDB's for a whole line: an import would take what a history may not hold.
_MAX_FIELD = 2_000_000


@dataclass(frozen=True)
class TableFile:
    """A delimited file.

    Attributes:
        names: The header, outer space trimmed.
        header_line: The line it ends on; a file's first is 1. Nothing above it is a record.
        plain_header: Whether it is one line of the file.
    """

    text: TextFile
    names: tuple[str, ...]
    delimiter: str
    header_line: int
    plain_header: bool

    @property
    def optional(self) -> bool:
        """Whether a later record may have a field that `names` lacks."""
        return False

    def records(self, wanted: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """Each record's first line and its `wanted` fields.

        Raises:
            EdgebError: naming the line that has too few or too many fields, or a broken quote.
        """
        index = [self.names.index(name) for name in wanted]
        count = len(self.names)
        for line, _, record in _rows(self.text, self.delimiter):
            if line <= self.header_line:
                continue
            # A delimiter at the end of a line ends it, as some programs write them.
            if len(record) != count and not (len(record) == count + 1 and not record[-1].strip()):
                raise EdgebError(f"{self.text.path}:{line}: {len(record)} fields where {count} are expected", _MEND)
            yield line, [record[i] for i in index]


def open_table(text: TextFile, wanted: Sequence[str]) -> TableFile:
    """Find the dialect and read the header.

    The delimiter is the one that `sep=` names, else the one that gives most of the `wanted` columns, else the most
    frequent in the header.

    Raises:
        EdgebError: there is no header, or it is broken.
    """
    with text.open() as file:
        line = next((line.strip("\r\n") for line in file if line.strip()), "")
    # Not `strip()`: the delimiter named may be a tab.
    said = line.strip(" ").strip('"')
    if said.lower().startswith("sep=") and len(said) == len("sep=") + 1 and not said[-1].isalnum():
        return _table(text, said[-1], skipped=1)
    tables, faults = [], []
    for delimiter in sorted(DELIMITERS, key=line.count, reverse=True):
        try:
            tables.append(_table(text, delimiter, skipped=0))
        except EdgebError as error:
            # Quotes that end before another delimiter than the file's.
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
        raise EdgebError(f"{text.path} has no header", "name the columns in its first line") from None
    return TableFile(text, tuple(name.strip() for name in names), delimiter, end, start == end)


def _rows(text: TextFile, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    """(first line, last line, fields) of every record that is not blank."""
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
            raise EdgebError(f"{text.path}:{start}: {error}", _MEND) from None
