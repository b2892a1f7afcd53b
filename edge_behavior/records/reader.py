"""From a path to the records of a log: the file's shape is found by its content, never by its name.

Histories and imports read their files here, so that both take the same ones. Knows nothing of what the fields mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.records.delimited import open_table
from edge_behavior.records.json_objects import open_json
from edge_behavior.records.text_files import TextFile, describe


class RecordFile(Protocol):
    """A file of records."""

    @property
    def text(self) -> TextFile:
        """The file."""

    @property
    def names(self) -> tuple[str, ...]:
        """Fields of the header or the first object."""

    @property
    def optional(self) -> bool:
        """Whether a later record may have a field that `names` lacks."""

    def records(self, wanted: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """Line and `wanted` fields of every record, in the order of the file."""


def open_records(path: Path, wanted: Sequence[str]) -> RecordFile:
    """Find out what a file is; `wanted` are the fields that tell its delimiter.

    Raises:
        EdgebError: it cannot be read, is empty, is no text, or its beginning is broken.
    """
    text = describe(path)
    with text.open() as file:
        first = next((line.lstrip()[0] for line in file if line.strip()), None)
    if first is None:
        raise EdgebError(f"{path} is empty", "pass a CSV file with a header, JSON lines or a JSON list of objects")
    return open_json(text, first) if first in "{[" else open_table(text, wanted)


def require_fields(path: Path, names: Sequence[str], wanted: Sequence[str], hints: Sequence[str]) -> None:
    """Refuse a file whose header or first object lacks a field, or names it twice.

    Args:
        names: Those that the file has.
        hints: What to do where the field of the same place in `wanted` is missing.

    Raises:
        EdgebError: naming the field.
    """
    for name, hint in zip(wanted, hints, strict=True):
        if name not in names:
            near = nearest(name, [shown for shown in names if shown])
            raise EdgebError(f"{path}: no column '{name}' ({near})", hint)
        if names.count(name) > 1:
            raise EdgebError(f"{path}: two columns are called '{name}'", "rename one of them")
