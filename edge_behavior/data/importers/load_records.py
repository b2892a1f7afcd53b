"""Loads a file of records into DuckDB: directly where DuckDB reads it right, else through a plain CSV copy.

`records` defines what a file holds. DuckDB reads in bulk the files that it understands the same way; others are first
rewritten as plain CSV in Python, which also finds the line of a fault.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb

from edge_behavior.data.duck import Database, file_literal, literal
from edge_behavior.records.delimited import TableFile
from edge_behavior.records.json_objects import JsonFile
from edge_behavior.records.reader import RecordFile
from edge_behavior.records.text_files import TextFile, file_errors

# Column names of the relation, in the order of the wanted fields; there are at most this many.
CELLS = ("c0", "c1", "c2", "c3", "c4")
_CHUNK, _OVERLAP = 1 << 24, 1 << 10
_LINE_END = re.compile("\r\n?")
_AS_TEXT = ("VARCHAR", "UBIGINT", "BIGINT", "NULL")


def load_records(database: Database, file: RecordFile, wanted: Sequence[str], load: Callable[[str], None]) -> None:
    """Call `load` with a relation of the `wanted` fields as text, named as CELLS, in the order of the file.

    Raises:
        EdgebError: the file is at fault; the message names the line.
    """
    relation = _direct(file, wanted)
    if relation is not None:
        try:
            load(relation)
        except (duckdb.InvalidInputException, duckdb.IOException) as error:
            # Copying finds the line at fault, or accepts what DuckDB does not, like padding after gzip.
            if isinstance(error, duckdb.IOException) and not file.text.gzipped:
                raise
        else:
            return
    copy = _copied(file, wanted, database.folder)
    load(_csv(copy, range(len(wanted)), len(wanted)))
    copy.unlink()


def _copied(file: RecordFile, wanted: Sequence[str], folder: Path) -> Path:
    path = folder / "records.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
        # DuckDB allows one kind of line end per file, even inside quotes.
        writer.writerows([_LINE_END.sub("\n", value) for value in values] for _, values in file.records(wanted))
    return path


def _direct(file: RecordFile, wanted: Sequence[str]) -> str | None:
    """The file as a relation, or None where DuckDB would read it differently than `records`."""
    text = file.text
    if text.content is not None or not text.is_utf8:
        return None
    if isinstance(file, TableFile):
        if not file.plain_header or _has_odd_bytes(text, file.delimiter):
            return None
        cells = [file.names.index(name) for name in wanted]
        return _csv(text.path, cells, len(file.names), file.delimiter, skip=file.header_line, gzipped=text.gzipped)
    assert isinstance(file, JsonFile)
    if file.array or _has_odd_bytes(text, None):
        return None
    paths = [file.key_path(name) for name in wanted]
    keys = {path[0] for path in paths}
    # DuckDB does not tell apart fields that differ only by case.
    return _json(text, paths) if len({key.lower() for key in keys}) == len(keys) else None


def _csv(
    path: Path, fields: Sequence[int], count: int, delimiter: str = ",", *, skip: int = 0, gzipped: bool = False
) -> str:
    """Some of the `count` fields of a delimited file as a relation, without its first `skip` lines."""
    types = ", ".join(f"'f{i}': 'VARCHAR'" for i in range(count))
    chosen = ", ".join(f"f{i} AS {name}" for i, name in zip(fields, CELLS[: len(fields)], strict=True))
    return (
        f"(SELECT {chosen} FROM read_csv({file_literal(path)}, auto_detect=false, columns={{{types}}}, "
        f"delim={literal(delimiter)}, header=false, skip={skip}, quote='\"', escape='\"', encoding='utf-8'"
        f"{_unpack(gzipped)}))"
    )


def _json(text: TextFile, paths: Sequence[tuple[str, ...]]) -> str:
    types = ", ".join(f"{literal(key)}: 'JSON'" for key in dict.fromkeys(path[0] for path in paths))
    plain = ", ".join(literal(kind) for kind in _AS_TEXT)
    cells = []
    for path, cell in zip(paths, CELLS[: len(paths)], strict=True):
        inner = "".join("." + json.dumps(key, ensure_ascii=False) for key in path[1:])
        field = '"' + path[0].replace('"', '""') + '"'
        value = f"json_extract({field}, {literal('$' + inner)})"
        cells.append(
            f"CASE WHEN coalesce(json_type({value}), 'NULL') IN ({plain}) THEN json_extract_string({value}, '$') "
            f"ELSE error('no text') END AS {cell}"
        )
    return (
        f"(SELECT {', '.join(cells)} FROM read_json({file_literal(text.path)}, format='newline_delimited', "
        f"columns={{{types}}}{_unpack(text.gzipped)}))"
    )


def _unpack(gzipped: bool) -> str:
    # Always explicit, because DuckDB would guess it from the name.
    return f", compression='{'gzip' if gzipped else 'uncompressed'}'"


def _has_odd_bytes(text: TextFile, delimiter: str | None) -> bool:
    """Whether the file has what DuckDB reads differently: mixed line ends, or spaces between delimiter and quote.

    Decompresses a gzip file to its end, because DuckDB before version 2 does not notice a truncated one.

    Args:
        delimiter: None for JSON lines.

    Raises:
        EdgebError: the file is damaged.
    """
    mark = b"[\r\n" + re.escape((delimiter or ",").encode()) + b"]"
    spaced = re.compile(b"(?:^|" + mark + b') +"|" +(?:$|' + mark + b")")
    returns, feeds, pairs, odd, tail = 0, 0, 0, False, b""
    with file_errors(text.path), text.open_bytes() as raw:
        while chunk := raw.read(_CHUNK):
            returns += chunk.count(b"\r")
            feeds += chunk.count(b"\n")
            pairs += chunk.count(b"\r\n") + (tail.endswith(b"\r") and chunk.startswith(b"\n"))
            # What spans two chunks is found with the second.
            held = tail + chunk
            # The substring tests are much faster than the pattern.
            if not odd and delimiter is not None and (b'" ' in held or b' "' in held):
                odd = spaced.search(held) is not None
            tail = held[-_OVERLAP:]
    return odd or returns != pairs or pairs not in (0, feeds)
