"""From a file of records to DuckDB: read as it is where DuckDB can, else by way of a plain copy.

`records` decides what a file holds. DuckDB only does the bulk of the reading, and only of files that it understands as
`records` does; what is odd is written out as plain CSV first, which also is how a fault gets its line.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb

from edge_behavior.data.duck import Engine, file_literal, literal
from edge_behavior.records.delimited import TableFile
from edge_behavior.records.json_objects import JsonFile
from edge_behavior.records.reader import RecordFile
from edge_behavior.records.text_files import TextFile, readable

# What a relation's columns are called, in the order of the fields wanted; at most as many are.
CELLS = ("c0", "c1", "c2", "c3", "c4")
_CHUNK, _OVERLAP = 1 << 24, 1 << 10
_LINE_END = re.compile("\r\n?")
_AS_TEXT = ("VARCHAR", "UBIGINT", "BIGINT", "NULL")


def read_into(engine: Engine, file: RecordFile, wanted: Sequence[str], load: Callable[[str], None]) -> None:
    """Hand `load` a relation with the `wanted` fields as text, named as CELLS, in the order of the file.

    Raises:
        EdgebError: the file is at fault; the message names the line.
    """
    relation = _as_it_is(file, wanted)
    if relation is not None:
        try:
            load(relation)
        except (duckdb.InvalidInputException, duckdb.IOException) as error:
            # The copy names the line at fault, or takes what DuckDB alone does not, like padding behind gzip.
            if isinstance(error, duckdb.IOException) and not file.text.packed:
                raise
        else:
            return
    copy = _copied(file, wanted, engine.folder)
    load(_csv(copy, wanted, ",", 0, packed=False, count=len(wanted), cells=range(len(wanted))))
    copy.unlink()


def _copied(file: RecordFile, wanted: Sequence[str], folder: Path) -> Path:
    path = folder / "records.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
        # DuckDB takes one kind of line end in a file, even inside quotes.
        writer.writerows([_LINE_END.sub("\n", value) for value in values] for _, values in file.records(wanted))
    return path


def _as_it_is(file: RecordFile, wanted: Sequence[str]) -> str | None:
    """The file as a relation, or None where DuckDB would read something else than `records`."""
    text = file.text
    if text.content is not None or not text.is_utf8:
        return None
    if isinstance(file, TableFile):
        if not file.plain_header or _has_odd_bytes(text, file.delimiter):
            return None
        cells = [file.names.index(name) for name in wanted]
        return _csv(text.path, wanted, file.delimiter, file.header_line, text.packed, len(file.names), cells)
    assert isinstance(file, JsonFile)
    if file.array or _has_odd_bytes(text, None):
        return None
    ways = [file.way(name) for name in wanted]
    keys = {way[0] for way in ways}
    # To DuckDB two fields that differ only by case are one.
    return _json(text, ways) if len({key.lower() for key in keys}) == len(keys) else None


def _csv(
    path: Path, wanted: Sequence[str], delimiter: str, skip: int, packed: bool, count: int, cells: Sequence[int]
) -> str:
    types = ", ".join(f"'f{i}': 'VARCHAR'" for i in range(count))
    chosen = ", ".join(f"f{i} AS {name}" for i, name in zip(cells, CELLS[: len(wanted)], strict=True))
    return (
        f"(SELECT {chosen} FROM read_csv({file_literal(path)}, auto_detect=false, columns={{{types}}}, "
        f"delim={literal(delimiter)}, header=false, skip={skip}, quote='\"', escape='\"', encoding='utf-8'"
        f"{_unpack(packed)}))"
    )


def _json(text: TextFile, ways: Sequence[tuple[str, ...]]) -> str:
    types = ", ".join(f"{literal(way[0])}: 'JSON'" for way in dict.fromkeys((way[0],) for way in ways))
    plain = ", ".join(literal(kind) for kind in _AS_TEXT)
    cells = []
    for way, cell in zip(ways, CELLS[: len(ways)], strict=True):
        path = "".join("." + json.dumps(key, ensure_ascii=False) for key in way[1:])
        field = '"' + way[0].replace('"', '""') + '"'
        value = f"json_extract({field}, {literal('$' + path)})"
        cells.append(
            f"CASE WHEN coalesce(json_type({value}), 'NULL') IN ({plain}) THEN json_extract_string({value}, '$') "
            f"ELSE error('no text') END AS {cell}"
        )
    return (
        f"(SELECT {', '.join(cells)} FROM read_json({file_literal(text.path)}, format='newline_delimited', "
        f"columns={{{types}}}{_unpack(text.packed)}))"
    )


def _unpack(packed: bool) -> str:
    # Said either way, because DuckDB goes by the name otherwise.
    return f", compression='{'gzip' if packed else 'uncompressed'}'"


def _has_odd_bytes(text: TextFile, delimiter: str | None) -> bool:
    """Whether the file has what DuckDB reads otherwise: line ends of several kinds, spaces between delimiter and quote.

    A gzip file is unpacked to its end, because DuckDB before version 2 takes a cut one for a short one.

    Args:
        delimiter: None for JSON lines, which have none.

    Raises:
        EdgebError: the file is damaged.
    """
    mark = b"[\r\n" + re.escape((delimiter or ",").encode()) + b"]"
    spaced = re.compile(b"(?:^|" + mark + b') +"|" +(?:$|' + mark + b")")
    returns, feeds, pairs, odd, tail = 0, 0, 0, False, b""
    with readable(text.path), text.open_bytes() as raw:
        while chunk := raw.read(_CHUNK):
            returns += chunk.count(b"\r")
            feeds += chunk.count(b"\n")
            pairs += chunk.count(b"\r\n") + (tail.endswith(b"\r") and chunk.startswith(b"\n"))
            # What spans two chunks is found in the second.
            held = tail + chunk
            # Searching for the pattern takes many times as long as for these.
            if not odd and delimiter is not None and (b'" ' in held or b' "' in held):
                odd = spaced.search(held) is not None
            tail = held[-_OVERLAP:]
    return odd or returns != pairs or pairs not in (0, feeds)
