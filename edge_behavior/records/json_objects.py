"""Records of JSON: one object per line, or one array of objects; values become text.

A nested field is named by its path: `data.app`. Numbers become text as written, whole ones without a fraction: 7, 7.0
and "7" are the same label. null is an empty field. true, false, objects and arrays are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.records.text_files import TextFile

_SPACE = " \t\r\n"
_PER_LINE = "write one JSON object per line, or one array of objects"
_EXACT = 2**53


@dataclass(frozen=True)
class JsonFile:
    """A file of JSON objects.

    Attributes:
        names: Fields of the first object, then those of nested objects, like `data.app`.
        nested: The names that are paths into nested objects.
        array: Whether the objects are elements of one array, rather than one per line.
    """

    text: TextFile
    names: tuple[str, ...]
    nested: frozenset[str]
    array: bool

    def key_path(self, name: str) -> tuple[str, ...]:
        """The keys on the path to a field."""
        return tuple(name.split(".")) if name in self.nested else (name,)

    @property
    def has_optional_fields(self) -> bool:
        """Whether a later record may have a field that `names` lacks."""
        return True

    def records(self, wanted: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """The line number and the text of the `wanted` fields of each object; a missing field is empty.

        Raises:
            EdgebError: naming the line that is not a JSON object, or the field whose value is not text.
        """
        for line, found in _objects(self.text, self.array):
            where = f"{self.text.path}:{line}"
            yield line, [_text(_at(found, self.key_path(name)), name, where) for name in wanted]


def open_json(text: TextFile, first: str) -> JsonFile:
    """Open a file whose first character after white space is `first`: "{" or "[".

    Raises:
        EdgebError: its beginning is not JSON, or it has no object.
    """
    array = first == "["
    found = next(_objects(text, array), None)
    if found is None:
        raise EdgebError(f"{text.path} holds an empty list", "pass a log with one object per event")
    top = tuple(found[1])
    nested = tuple(name for name in _nested(found[1]) if name not in top)
    return JsonFile(text, top + nested, frozenset(nested), array)


def _nested(found: dict[str, Any], before: str = "") -> Iterator[str]:
    for key, value in found.items():
        if before:
            yield before + key
        # A key that itself contains a dot would be ambiguous.
        if isinstance(value, dict) and "." not in key:
            yield from _nested(value, f"{before}{key}.")


def _at(found: dict[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = found
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _objects(text: TextFile, array: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    pairs = _array(text) if array else _lines(text)
    for line, value in pairs:
        if not isinstance(value, dict):
            raise EdgebError(f"{text.path}:{line}: not a JSON object", _PER_LINE)
        yield line, value


def _lines(text: TextFile) -> Iterator[tuple[int, Any]]:
    with text.open() as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    value = _DECODER.decode(line.strip())
                except (ValueError, RecursionError) as error:
                    hint = "write each object on one line" if line.strip() in ("{", "{}") else _PER_LINE
                    raise _not_json(text, number, error, hint) from None
                yield number, value


def _array(text: TextFile) -> Iterator[tuple[int, Any]]:
    """Elements one by one, because a whole array as Python objects takes many times the memory of its text."""
    with text.open() as file:
        content = file.read()
    line, counted = 1, 0

    def line_of(at: int) -> int:
        nonlocal line, counted
        line += content.count("\n", counted, at)
        counted = at
        return line

    at = _skip(content, 0) + 1  # after the bracket
    at = _skip(content, at)
    if content[at : at + 1] != "]":
        while True:
            start = line_of(at)
            try:
                value, at = _DECODER.raw_decode(content, at)
            except (ValueError, RecursionError) as error:
                position = getattr(error, "pos", at)
                raise _not_json(text, start + content.count("\n", counted, position), error, _PER_LINE) from None
            yield start, value
            at = _skip(content, at)
            mark = content[at : at + 1]
            if mark == "]":
                break
            if mark != ",":
                raise EdgebError(f"{text.path}:{line_of(at)}: not JSON (the list does not end here)", _PER_LINE)
            at = _skip(content, at + 1)
    end = _skip(content, at + 1)
    if end < len(content):
        raise EdgebError(f"{text.path}:{line_of(end)}: not JSON (something follows the list)", _PER_LINE)


def _skip(content: str, at: int) -> int:
    while at < len(content) and content[at] in _SPACE:
        at += 1
    return at


def _not_json(text: TextFile, line: int, error: Exception, hint: str) -> EdgebError:
    reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
    return EdgebError(f"{text.path}:{line}: not JSON ({reason})", hint)


def _text(value: Any, name: str, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise EdgebError(
                f"{where}: field '{name}' holds half a surrogate pair",
                "the log was cut inside a character; correct the line",
            )
        return value
    kind = {bool: str(value).lower(), dict: "an object", list: "a list"}[type(value)]
    inside = [key for key, held in value.items() if isinstance(held, str)] if isinstance(value, dict) else []
    hint = f"name a field inside it, like {name}.{inside[0]}" if inside else "pass a field of text or numbers"
    raise EdgebError(f"{where}: field '{name}' holds {kind}, not text", hint)


def _fraction(written: str) -> str:
    value = float(written)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{written[:20]} is too large")
    return str(int(value)) if value.is_integer() and abs(value) < _EXACT else repr(value)


def _whole(written: str) -> str:
    return "0" if written == "-0" else written


def _refused(written: str) -> None:
    raise ValueError(f"{written} is not a JSON value")


# Numbers become text while parsing, so that a long integer stays as written.
_DECODER = json.JSONDecoder(parse_int=_whole, parse_float=_fraction, parse_constant=_refused)
