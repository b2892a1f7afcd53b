"""Opens a file of records in the format that its content shows, whatever its name.

Histories and imports share it, so that both accept the same files. Knows nothing of what the fields mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.records.delimited import open_table
from edge_behavior.records.json_objects import open_json
from edge_behavior.records.text_files import TextFile, detect


class RecordFile(Protocol):
    """A file of records."""

    @property
    def text(self) -> TextFile:
        """The file."""

    @property
    def names(self) -> tuple[str, ...]:
        """Fields of the header or of the first object."""

    @property
    def has_optional_fields(self) -> bool:
        """Whether a later record may have a field that `names` lacks."""

    def records(self, wanted: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """Line number and `wanted` fields of every record, in the order of the file."""


def open_records(path: Path, wanted: Sequence[str]) -> RecordFile:
    """Detect the format of a file; the delimiter is the one that gives most of the `wanted` fields.

    Raises:
        EdgebError: the file cannot be read, is empty, is not text, or its beginning is broken.
    """
    text = detect(path)
    with text.open() as file:
        first = next((line.lstrip()[0] for line in file if line.strip()), None)
    if first is None:
        raise EdgebError(f"{path} is empty", "pass a CSV file with a header, JSON lines or a JSON list of objects")
    return open_json(text, first) if first in "{[" else open_table(text, wanted)


def require_fields(path: Path, names: Sequence[str], wanted: Sequence[str], hints: Sequence[str]) -> None:
    """Refuse a file that lacks a wanted field, or has it twice.

    Args:
        names: Fields of the file.
        hints: Per field in `wanted`, what to do if it is missing.

    Raises:
        EdgebError: naming the field.
    """
    for name, hint in zip(wanted, hints, strict=True):
        if name not in names:
            near = nearest(name, [shown for shown in names if shown])
            raise EdgebError(f"{path}: no column '{name}' ({near})", hint)
        if names.count(name) > 1:
            raise EdgebError(f"{path}: two columns are called '{name}'", "rename one of them")
