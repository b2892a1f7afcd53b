"""Generic logs: delimited text, JSON and Parquet with a user, a local time, a place and a behavior per row.

Knows column names and types; what the values mean is settled elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import duckdb

from edge_behavior.data._engine import Engine, file_literal
from edge_behavior.data._records import CELLS, read_into
from edge_behavior.data._source import Source, local_time_sql, require_users, settle_times
from edge_behavior.errors import EdgebError
from edge_behavior.records import open_records, require_fields

_TIMES = ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE")
_SIMPLE = ("VARCHAR", "BOOLEAN", "UUID")


@dataclass(frozen=True)
class ColumnMap:
    """Names of the four columns of a generic log."""

    user: str = "user_id"
    time: str = "timestamp"
    place: str = "place"
    behavior: str = "behavior"


def load_text(engine: Engine, path: Path, columns: ColumnMap) -> Source:
    """Load delimited text with a header, JSON lines or a JSON list of objects; which of them, the content says.

    Raises:
        EdgebError: a column that is missing, a record that is broken or holds no text, a bad time, an empty user.
    """
    file = open_records(path, list(asdict(columns).values()))
    roles = _find(path, file.names, columns)
    read_into(
        engine,
        file,
        list(roles.values()),
        lambda relation: _load_text(engine, relation, dict(zip(roles, CELLS, strict=True))),
    )

    def where(row: int) -> str:
        found = next(islice(file.records(list(roles.values())), row, None), None)
        return f"{path}:{found[0]}" if found else str(path)

    return _finish(engine, Source((path,), where, {"kind": "column"}), columns)


def load_parquet(engine: Engine, path: Path, columns: ColumnMap) -> Source:
    """Load a Parquet file; times may be text or timestamps without a zone.

    Raises:
        EdgebError: as `load_text`, and a column of a type that cannot be what it is said to be.
    """
    relation = f"read_parquet({file_literal(path)})"
    try:
        types = {str(name): str(kind) for name, kind, *_ in engine.rows(f"DESCRIBE SELECT * FROM {relation}")}
    except (duckdb.InvalidInputException, duckdb.IOException):
        raise EdgebError(f"{path} is not a Parquet file, or a truncated one", "pass its right --format") from None
    found = _find(path, list(types), columns)
    kind = types[found["time"]]
    if "TIME ZONE" in kind:
        raise EdgebError(
            f"{path}: column '{found['time']}' carries a time zone", "convert it to the user's local time first"
        )
    if kind not in (*_TIMES, "VARCHAR"):
        raise EdgebError(
            f"{path}: column '{found['time']}' holds {kind}, not times",
            "store local timestamps without a zone, or ISO 8601 text",
        )
    for role in ("user", "place", "behavior"):
        held = types[found[role]]
        if held not in _SIMPLE and "INT" not in held:
            raise EdgebError(f"{path}: column '{found[role]}' holds {held}", "store text or integers")
    names = {role: _identifier(name) for role, name in found.items()}
    if kind == "VARCHAR":
        _load_text(engine, relation, names)
    else:
        time = f"CAST({names['time']} AS TIMESTAMP)"
        clock = f"CASE WHEN isfinite({time}) AND year({time}) BETWEEN 1 AND 9999 THEN {time} END"
        _create(engine, relation, names, clock, f"CAST({names['time']} AS VARCHAR)")
    return _finish(engine, Source((path,), lambda row: f"{path} row {row + 1}", {"kind": "column"}), columns)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _find(path: Path, names: Sequence[str], columns: ColumnMap) -> dict[str, str]:
    """Check that each role's column is there, once."""
    wanted: dict[str, str] = asdict(columns)
    require_fields(path, names, list(wanted.values()), [f"name it with --{role}-column" for role in wanted])
    return wanted


def _load_text(engine: Engine, relation: str, names: dict[str, str]) -> None:
    stamp = names["time"]
    _create(engine, relation, names, local_time_sql(stamp), stamp)


def _create(engine: Engine, relation: str, names: dict[str, str], clock: str, stamp: str) -> None:
    """Fill `log`; `odd` keeps the text of a time that SQL could not read."""
    engine.rows(
        f"CREATE TABLE log AS SELECT trim(CAST({names['user']} AS VARCHAR)) AS user, {clock} AS time, "
        f"CASE WHEN ({clock}) IS NULL THEN {stamp} END AS odd, "
        f"CAST({names['place']} AS VARCHAR) AS place, CAST({names['behavior']} AS VARCHAR) AS behavior FROM {relation}"
    )


def _finish(engine: Engine, source: Source, columns: ColumnMap) -> Source:
    if engine.number("SELECT count(*) FROM log") == 0:
        raise EdgebError(f"{source.files[0]} has no rows", "pass a log with one row per event")
    settle_times(engine, source.where)
    require_users(engine, source.where, columns.user)
    return source
