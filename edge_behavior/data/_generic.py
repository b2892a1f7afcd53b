"""Generic logs: CSV, JSONL and Parquet with a user, a time, a place and a behavior per row.

Knows column names and types; what the values mean is settled elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from edge_behavior.clock import AS_WRITTEN, Clock, parse_time
from edge_behavior.data._engine import Engine, file_literal, literal
from edge_behavior.data._source import Source
from edge_behavior.data._text import JsonLines, explained, first_line, sniff
from edge_behavior.data._times import local_sql, settle_times, time_sql
from edge_behavior.data._values import require_users
from edge_behavior.errors import EdgebError, nearest

_TIMES = ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE")
_ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
_INTEGERS = tuple(
    f"{sign}{size}" for sign in ("", "U") for size in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
)
_NAMES = ("VARCHAR", "UUID", *_INTEGERS)
_WRONG_JSON = {"OBJECT": "an object", "ARRAY": "a list", "BOOLEAN": "true or false"}


@dataclass(frozen=True)
class ColumnMap:
    """Names of the four columns of a generic log."""

    user: str = "user_id"
    time: str = "timestamp"
    place: str = "place"
    behavior: str = "behavior"


def check_columns(columns: ColumnMap) -> None:
    """Refuse one column in two roles.

    Raises:
        EdgebError: naming the column and both roles.
    """
    roles: dict[str, str] = {}
    for role, name in asdict(columns).items():
        if name in roles:
            first = roles[name]
            hint = f"--{first}-column and --{role}-column must differ"
            if "place" in (first, role):
                hint += "; a log without places is imported with --no-place"
            raise EdgebError(f"column '{name}' is to be both the {first} and the {role}", hint)
        roles[name] = role


def load_csv(engine: Engine, path: Path, columns: ColumnMap, clock: Clock) -> Source:
    """Load a CSV file with a header; comma, tab, semicolon or bar.

    Raises:
        EdgebError: a column that is missing, a line with too few or too many fields, a bad time, no user.
    """
    file, names = sniff(path)
    index = {role: names.index(name) for role, name in _find(path, names, columns).items()}
    with explained(file):
        _create(engine, file.sql(), {role: f"c{i}" for role, i in index.items()}, time_sql("stamp", clock))
    return _finish(engine, Source((path,), file.where, {"kind": "column"}), columns, clock)


def load_jsonl(engine: Engine, path: Path, columns: ColumnMap, clock: Clock) -> Source:
    """Load a file with one JSON object per line. `data.app` names the field `app` of the object in `data`.

    Raises:
        EdgebError: as `load_csv`, a line that is not a JSON object, and a value that is neither text nor a number.
    """
    file = JsonLines(path)
    try:
        first = json.loads(first_line(path))
    except json.JSONDecodeError:
        first = None
    if not isinstance(first, dict):
        raise file.explain() or EdgebError(f"{path} holds no JSON objects", "write one JSON object per line")
    ways = {name: _way(name, first) for name in asdict(columns).values()}
    inner = [name for name, way in ways.items() if len(way) > 1]
    _find(path, [*first, *inner], columns)
    values = {role: _json_value(ways[name]) for role, name in asdict(columns).items()}
    texts = {role: _json_text(value) for role, value in values.items()}
    wrong = " ".join(
        f"WHEN json_type({value}) IN {tuple(_WRONG_JSON)} THEN '{role} ' || json_type({value})"
        for role, value in values.items()
    )
    with explained(file):
        heads = dict.fromkeys(way[0] for way in ways.values())
        _create(engine, file.sql(list(heads)), texts, time_sql("stamp", clock), {"wrong": f"CASE {wrong} END"})
    found = engine.rows("SELECT wrong, rowid FROM log WHERE wrong IS NOT NULL ORDER BY rowid LIMIT 1")
    if found:
        role, kind = found[0][0].split()
        raise _wrong_value(file.where(found[0][1]), role, kind, asdict(columns)[role], first)
    engine.rows("ALTER TABLE log DROP COLUMN wrong")
    return _finish(engine, Source((path,), file.where, {"kind": "column"}), columns, clock)


def load_parquet(engine: Engine, path: Path, columns: ColumnMap, clock: Clock) -> Source:
    """Load a Parquet file; times may be text, timestamps, or numbers since 1970.

    Raises:
        EdgebError: as `load_csv`, and a column of a type that cannot be what it is said to be.
    """
    relation = f"read_parquet({file_literal(path)})"
    try:
        types = {str(name): str(kind) for name, kind, *_ in engine.rows(f"DESCRIBE SELECT * FROM {relation}")}
    except (duckdb.InvalidInputException, duckdb.IOException):
        raise EdgebError(f"{path} is not a Parquet file, or a truncated one", "pass its right --format") from None
    found = _find(path, list(types), columns)
    for role in ("user", "place", "behavior"):
        held = types[found[role]]
        if held not in _NAMES:
            raise EdgebError(f"{path}: column '{found[role]}' holds {held}", "store text or integers")
    names = {role: _identifier(name) for role, name in found.items()}
    _check_time_type(f"{path}: column '{found['time']}'", types[found["time"]], clock)
    if types[found["time"]] in _ZONED:
        # Their cast to TIMESTAMP would take the session's time zone where they count nanoseconds.
        instant = local_sql("make_timestamp(epoch_us(CAST(moment AS TIMESTAMP WITH TIME ZONE)))", clock)
        _create(engine, relation, names, instant, {"moment": names["time"]})
    elif types[found["time"]] in _TIMES:
        time = "CAST(moment AS TIMESTAMP)"
        local = f"CASE WHEN isfinite({time}) AND year({time}) BETWEEN 1 AND 9999 THEN {time} END"
        _create(engine, relation, names, local, {"moment": names["time"]})
    else:
        _create(engine, relation, names, time_sql("stamp", clock))
    return _finish(engine, Source((path,), lambda row: f"{path} row {row + 1}", {"kind": "column"}), columns, clock)


def _check_time_type(column: str, kind: str, clock: Clock) -> None:
    if kind in _ZONED:
        if clock.zone is None:
            said = f", and no wall time for --timezone {AS_WRITTEN}" if clock.as_written else ""
            raise EdgebError(
                f"{column} carries a time zone{said}", "pass --timezone with the users' zone, like Europe/Berlin"
            )
    elif kind in _TIMES:
        if clock.zone is not None:
            raise EdgebError(
                f"{column} has no zone that --timezone could convert from",
                "leave --timezone out if the times are local already; store UTC ones as timestamps in UTC",
            )
    elif kind not in ("VARCHAR", "DOUBLE", *_INTEGERS) and not kind.startswith("DECIMAL"):
        raise EdgebError(f"{column} holds {kind}, not times", "store local timestamps, or ISO 8601 text")


def _way(name: str, first: dict[str, Any]) -> tuple[str, ...]:
    """The keys that lead to a column of nested JSON; one, where the first object has a field of that name."""
    head, dot, rest = name.partition(".")
    return (head, *rest.split(".")) if dot and name not in first and isinstance(first.get(head), dict) else (name,)


def _json_value(way: tuple[str, ...]) -> str:
    path = "".join("." + json.dumps(key, ensure_ascii=False) for key in way[1:])
    return f"json_extract({_identifier(way[0])}, {literal('$' + path)})"


def _json_text(value: str) -> str:
    """A DuckDB expression: a JSON value as text, whole numbers without a fraction."""
    text, number = f"({value} ->> '$')", f"TRY_CAST({value} AS DOUBLE)"
    whole = f"{number} = floor({number}) AND abs({number}) < {2**53}"
    return (
        f"CASE WHEN json_type({value}) = 'DOUBLE' AND NOT regexp_full_match({text}, '-?[0-9]+') "
        f"THEN CASE WHEN {whole} THEN CAST(CAST({number} AS BIGINT) AS VARCHAR) ELSE CAST({number} AS VARCHAR) END "
        f"ELSE {text} END"
    )


def _wrong_value(where: str, role: str, kind: str, name: str, first: dict[str, Any]) -> EdgebError:
    hint = "write text or a number"
    if kind == "OBJECT":
        held = first.get(name)
        keys = [key for key, value in held.items() if isinstance(value, str)] if isinstance(held, dict) else []
        hint = f"name a field inside it: --{role}-column {name}.{keys[0] if keys else 'FIELD'}"
    return EdgebError(f"{where}: column '{name}' holds {_WRONG_JSON[kind]}, not text", hint)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _find(path: Path, names: list[str], columns: ColumnMap) -> dict[str, str]:
    """Check that each role's column is there, once."""
    wanted: dict[str, str] = asdict(columns)
    for role, name in wanted.items():
        if name not in names:
            hint = nearest(name, names)
            raise EdgebError(f"{path}: no column '{name}' ({hint})", f"name it with --{role}-column")
        if names.count(name) > 1:
            raise EdgebError(f"{path}: two columns are called '{name}'", "rename one of them")
    return wanted


def _create(
    engine: Engine, relation: str, columns: dict[str, str], time: str, extra: dict[str, str] | None = None
) -> None:
    """Fill `log`; `odd` keeps the text of a time that SQL could not read.

    Args:
        columns: Role to its SQL expression over `relation`.
        time: SQL expression of the local time, over `stamp`, the trimmed text of the time column, and `extra`.
        extra: More columns; `moment` is for `time` only, others stay in `log`.
    """
    more = dict(extra or {})
    taken = "".join(f", {value} AS {name}" for name, value in more.items())
    kept = "".join(f", {name}" for name in more if name != "moment")
    engine.rows(
        f"CREATE TABLE log AS SELECT user, time, CASE WHEN time IS NULL THEN stamp END AS odd, place, behavior{kept} "
        f"FROM (SELECT *, {time} AS time FROM (SELECT trim(CAST({columns['user']} AS VARCHAR)) AS user, "
        f"trim(CAST({columns['time']} AS VARCHAR)) AS stamp, CAST({columns['place']} AS VARCHAR) AS place, "
        f"CAST({columns['behavior']} AS VARCHAR) AS behavior{taken} FROM {relation}))"
    )


def _finish(engine: Engine, source: Source, columns: ColumnMap, clock: Clock) -> Source:
    if engine.number("SELECT count(*) FROM log") == 0:
        raise EdgebError(f"{source.files[0]} has no rows", "pass a log with one row per event")
    settle_times(engine, source.where, lambda text, where: parse_time(text, where, clock))
    require_users(engine, source.where, columns.user)
    return source
