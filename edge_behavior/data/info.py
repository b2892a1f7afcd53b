"""dataset.json as typed fields: where a dataset came from, what the import kept and dropped, and checksums.

`read_info` refuses a file that lacks a field or holds another type in it; `to_dict` gives back the keys of the file in
their order. Keys that this version does not know are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.errors import EdgebError

# Version 2 adds splits by time, user groups and logs without places. A dataset with none of them is written as 1.
SCHEMA_VERSION = 2
INFO_FILE = "dataset.json"

IMPORT_AGAIN = "import the log again"
_MAKE_ONE = "make one with `edgeb data import` or `edgeb data synth`"
# Python's types of what JSON holds, by the type that a field is annotated with; a dataclass is an object.
_JSON_TYPES: dict[Any, Any] = {str: str, int: int, float: (int, float), tuple: list}
_TYPE_NAMES = {str: "text", int: "a whole number", (int, float): "a number", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class LogFile:
    """A file that was imported: its name without folders, SHA-256 (hex) and size in bytes."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class LogSource:
    """The log a dataset was made from; `name` is for display."""

    name: str
    format: str
    files: tuple[LogFile, ...]


@dataclass(frozen=True)
class RecordedOptions:
    """The import options that shaped the dataset.

    Attributes:
        seed: Of the split by users.
        min_events: Users with fewer events were skipped.
        merge_seconds: A repeat of the user's previous behavior and place within this time was dropped; 0 keeps all.
        missing: What was done with events without a behavior: `refuse`, `drop` or `keep`.
        columns: Column per role, of generic formats only; so are the next two.
        timezone: The users' time zone as it was given.
        time_unit: Unit of numeric times.
        split: `users` or `time`.
        group_column: Column of the users' groups; None where users are not grouped.
    """

    seed: int
    min_events: int
    merge_seconds: int
    missing: str = "refuse"
    columns: Mapping[str, str] | None = None
    timezone: str | None = None
    time_unit: str | None = None
    split: str = "users"
    group_column: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields that the file has; those at their defaults are left out as version 1 did."""
        generic = ("columns", "timezone", "time_unit")
        left_out = set(generic) if self.columns is None else set()
        left_out |= {"split"} if self.split == "users" else set()
        left_out |= {"group_column"} if self.group_column is None else set()
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}


@dataclass(frozen=True)
class RowCounts:
    """Rows of the log, and how many were dropped, by reason."""

    read: int
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class UserCounts:
    """Users of the log; `groups` counts the kept users' groups, where users are grouped."""

    read: int
    skipped: int
    kept: int
    groups: int | None = None


@dataclass(frozen=True)
class SplitCounts:
    """Size of one split; a window is a target event with a full history."""

    users: int
    events: int
    windows: int


@dataclass(frozen=True)
class Span:
    """Local times of the first and the last event, ISO 8601 to the second."""

    start: str
    end: str


@dataclass(frozen=True)
class EventsPerUser:
    """Quantiles and mean of the kept users' event counts."""

    min: float
    p10: float
    p25: float
    median: float
    p75: float
    p90: float
    max: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class PlaceInfo:
    """How places were made.

    Attributes:
        kind: `column`, `cell` (of a map grid), `poi` or `station` (app-usage), or `none`.
        origin: South-west corner of the grid, degrees; the grid's fields are of kind `cell` only.
        cell_degrees: Height and width of a cell.
        rows, columns: Size of the grid.
        row_letters, column_letters: Letters of a cell's name.
        count: Number of distinct places.
        missing: Rows without a place; None where the log has no places.
    """

    kind: str
    origin: Mapping[str, float] | None = None
    cell_degrees: float | None = None
    rows: int | None = None
    columns: int | None = None
    row_letters: int | None = None
    column_letters: int | None = None
    count: int
    missing: int | None = None


@dataclass(frozen=True)
class Checksums:
    """SHA-256 (hex) of every event column per split, and of the names of users, places and users' groups."""

    train: Mapping[str, str]
    validation: Mapping[str, str]
    test: Mapping[str, str]
    users: str
    places: str
    groups: str | None = None

    def events(self, split: str) -> Mapping[str, str]:
        """Checksum per event column of a split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


@dataclass(frozen=True)
class DatasetInfo:
    """What dataset.json says.

    Attributes:
        splits: Counts per split.
        content: Checksums of what the dataset holds.
        warnings: What was odd about the log, one sentence each.
    """

    schema_version: int
    source: LogSource
    options: RecordedOptions
    rows: RowCounts
    users: UserCounts
    history_length: int
    splits: Mapping[str, SplitCounts]
    span: Span
    events_per_user: EventsPerUser
    place: PlaceInfo
    candidates: CandidateSet
    content: Checksums
    warnings: tuple[str, ...] = ()

    @property
    def has_places(self) -> bool:
        """Whether events have places."""
        return self.place.kind != "none"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the keys of the file in their order."""
        plain: dict[str, Any] = plain_json(self)
        return plain


def read_info(folder: Path) -> DatasetInfo:
    """Read the dataset.json of a dataset folder.

    Raises:
        EdgebError: not a dataset folder, one of a newer version, or a field that is missing or of another type.
    """
    file = folder / INFO_FILE
    if not folder.exists():
        raise EdgebError(f"no dataset at {folder}", _MAKE_ONE)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EdgebError(f"{folder} is not a dataset folder: it has no {INFO_FILE}", _MAKE_ONE) from None
    except NotADirectoryError:
        raise EdgebError(f"{folder} is a file, not a dataset folder", _MAKE_ONE) from None
    except (OSError, ValueError) as error:
        raise EdgebError(f"cannot read {file}: {error}", IMPORT_AGAIN) from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise EdgebError(f"{file} is not an edgeb dataset description", _MAKE_ONE)
    if version > SCHEMA_VERSION:
        raise EdgebError(f"{folder} has dataset version {version}; this edgeb reads {SCHEMA_VERSION}", "update edgeb")
    info: DatasetInfo = _typed(DatasetInfo, document, file, "")
    return info


def plain_json(value: Any) -> Any:
    """Dataclasses as dicts without the fields that are None, sequences as lists; other values as they are."""
    if is_dataclass(value) and not isinstance(value, type):
        if isinstance(value, RecordedOptions):
            return plain_json(value.to_dict())
        named = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        return {name: plain_json(held) for name, held in named.items() if held is not None}
    if isinstance(value, Mapping):
        return {key: plain_json(held) for key, held in value.items()}
    return [plain_json(held) for held in value] if isinstance(value, list | tuple) else value


def _typed(kind: Any, value: Any, file: Path, name: str) -> Any:
    """A JSON value as the annotated type `kind`: a dataclass, X | None, Mapping[str, X], tuple[X, ...] or a scalar."""
    origin, inner = get_origin(kind), get_args(kind)
    if NoneType in inner:
        return None if value is None else _typed(inner[0], value, file, name)
    expected = _JSON_TYPES.get(origin or kind, dict)
    if not isinstance(value, expected) or isinstance(value, bool):
        raise EdgebError(f"{file}: '{name}' is not {_TYPE_NAMES[expected]}", IMPORT_AGAIN)
    if origin is tuple:
        return tuple(_typed(inner[0], held, file, f"{name}[{i}]") for i, held in enumerate(value))
    prefix = f"{name}." if name else ""
    if origin is Mapping:
        return {key: _typed(inner[1], held, file, prefix + key) for key, held in value.items()}
    return _record(kind, value, file, prefix) if is_dataclass(kind) else value


def _record(kind: Any, document: dict[str, Any], file: Path, prefix: str) -> Any:
    kinds, found = get_type_hints(kind), {}
    for field in fields(kind):
        if field.name in document:
            found[field.name] = _typed(kinds[field.name], document[field.name], file, prefix + field.name)
        elif field.init and field.default is MISSING:
            raise _lacks(file, prefix + field.name)
    try:
        return kind(**found)
    except EdgebError as error:
        raise EdgebError(f"{file}: {error.message}", IMPORT_AGAIN) from None


def _lacks(file: Path, name: str) -> EdgebError:
    return EdgebError(f"{file} lacks '{name}'", IMPORT_AGAIN)
