"""Strict reading of JSON objects: bundles, saved sessions, habits, fusion weights, calibrations.

What is missing, unknown or of the wrong type is refused by name, never guessed. Knows no file format; YAML recipes and
export profiles are pydantic sections (`util.fields`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from edge_behavior.errors import EdgebError, nearest

DAMAGED_HINT = "the file is damaged or was edited: copy or export it again"
# What a field may hold; several types are alternatives, `object` is anything.
Kind = type | tuple[type, ...]
NULL = type(None)
_WORDS = {NULL: "null", dict: "an object", list: "a list"}


def parse_json(content: bytes | str, where: str, hint: str = DAMAGED_HINT) -> Any:
    """The value of a JSON text, UTF-8 where it is bytes.

    Raises:
        EdgebError: it is not JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(content if isinstance(content, str) else content.decode())
    except (ValueError, RecursionError):
        raise EdgebError(f"{where} is not JSON", hint) from None


def read_fields(
    values: object, known: Mapping[str, Kind] | Sequence[str], where: str, hint: str = DAMAGED_HINT
) -> dict[str, Any]:
    """The fields of a JSON object that has these fields, and no other.

    Args:
        values: What `json.loads` gave.
        known: Type per field name; names alone check no type.
        where: The file and the object in it, for error messages.
        hint: What to do about damage.

    Raises:
        EdgebError: not an object, or a field that is missing, unknown or of the wrong type.
    """
    if not isinstance(values, dict):
        raise EdgebError(f"{where} is not an object but {type(values).__name__}", hint)
    for name in known:
        if name not in values:
            raise EdgebError(f"{where}: field '{name}' is missing", hint)
    for name, value in values.items():
        if name not in known:
            raise EdgebError(f"{where}: unknown field '{name}'", nearest(str(name), known))
        if isinstance(known, Mapping):
            _check_kind(value, known[name], f"{where}: field '{name}'", hint)
    return dict(values)


def read_list(
    value: object, where: str, kind: Kind = object, length: int | None = None, hint: str = DAMAGED_HINT
) -> list[Any]:
    """A JSON list of values of one type.

    Raises:
        EdgebError: not a list, not of that length, or an item of another type.
    """
    if not isinstance(value, list) or (length is not None and len(value) != length):
        what = "a list" if length is None else f"a list of {length}"
        raise EdgebError(f"{where} is {_shown(value)}, not {what}", hint)
    for number, item in enumerate(value):
        _check_kind(item, kind, f"{where}[{number}]", hint)
    return value


def is_whole(value: object, low: int, stop: int) -> bool:
    """Whether a value is an int (JSON's true is Python's int) of at least `low` and below `stop`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < stop


def is_number(value: object, low: float, high: float) -> bool:
    """Whether a value is a number, no bool and no NaN, from `low` to `high`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put the file, or the object in it, before the message of an EdgebError."""
    try:
        yield
    except EdgebError as error:
        raise EdgebError(f"{where}: {error.message}", error.hint) from None


def _check_kind(value: object, kind: Kind, what: str, hint: str) -> None:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    fits = object in kinds or (bool in kinds if isinstance(value, bool) else isinstance(value, kinds))
    if not fits:
        words = " or ".join(_WORDS.get(k, k.__name__) for k in kinds)
        raise EdgebError(f"{what} is {_shown(value)}, not {words}", hint)


def _shown(value: object) -> str:
    return repr(value)[:80]
