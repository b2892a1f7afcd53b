"""Generic logs: CSV, JSONL and Parquet with a user, a local time, a place (or none) and a behavior per row.

Knows column names and types; what the values mean is settled elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb

from edge_behavior.data._engine import Engine, file_literal
from edge_behavior.data._source import Source, local_time_sql, require_groups, require_users, settle_times
from edge_behavior.data._text import JsonLines, Where, explained, first_line, sniff
from edge_behavior.errors import EdgebError, nearest

_TIMES = ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE")
_SIMPLE = ("VARCHAR", "BOOLEAN", "UUID")


@dataclass(frozen=True)
class ColumnMap:
    """Names of the columns of a generic log.

    Attributes:
        place: None for a log without places.
        group: Which group a user belongs to; None where users are not grouped.
    """

    user: str = "user_id"
    time: str = "timestamp"
    place: str | None = "place"
    behavior: str = "behavior"
    group: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """Column per role, of those that are looked for."""
        return {role: name for role, name in asdict(self).items() if name is not None}

    @property
    def place_facts(self) -> dict[str, str]:
        """How places are made, for dataset.json."""
        return {"kind": "none" if self.place is None else "column"}


def load_csv(engine: Engine, path: Path, columns: ColumnMap) -> Source:
    """Load a CSV file with a header; comma, tab, semicolon or bar.

    Raises:
        EdgebError: a column that is missing, a line with too few or too many fields, a bad time, an empty user.
    """
    file, names = sniff(path)
    index = {role: names.index(name) for role, name in _find(path, names, columns).items()}
    with explained(file):
        _load_text(engine, file.sql(), {role: f"c{i}" for role, i in index.items()})
    return _finish(engine, _source(path, file.where, columns), columns)


def load_jsonl(engine: Engine, path: Path, columns: ColumnMap) -> Source:
    """Load a file with one JSON object per line.

    Raises:
        EdgebError: as `load_csv`, and a line that is not a JSON object.
    """
    file = JsonLines(path)
    try:
        first = json.loads(first_line(path))
    except json.JSONDecodeError:
        first = None
    if not isinstance(first, dict):
        raise file.explain() or EdgebError(f"{path} holds no JSON objects", "write one JSON object per line")
    fields = _find(path, list(first), columns)
    with explained(file):
        _load_text(engine, file.sql(fields), {role: _identifier(name) for role, name in fields.items()})
    return _finish(engine, _source(path, file.where, columns), columns)


def load_parquet(engine: Engine, path: Path, columns: ColumnMap) -> Source:
    """Load a Parquet file; times may be text or timestamps without a zone.

    Raises:
        EdgebError: as `load_csv`, and a column of a type that cannot be what it is said to be.
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
    for role in (role for role in found if role != "time"):
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
    return _finish(engine, _source(path, lambda row: f"{path} row {row + 1}", columns), columns)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _find(path: Path, names: list[str], columns: ColumnMap) -> dict[str, str]:
    """Check that each role's column is there, once."""
    wanted = columns.named
    for role, name in wanted.items():
        if name not in names:
            hint = nearest(name, names)
            way = ", or pass --no-place if the log has none" if role == "place" else ""
            raise EdgebError(f"{path}: no column '{name}' ({hint})", f"name it with --{role}-column{way}")
        if names.count(name) > 1:
            raise EdgebError(f"{path}: two columns are called '{name}'", "rename one of them")
    return wanted


def _load_text(engine: Engine, relation: str, names: dict[str, str]) -> None:
    stamp = names["time"]
    _create(engine, relation, names, local_time_sql(stamp), stamp)


def _create(engine: Engine, relation: str, names: dict[str, str], clock: str, stamp: str) -> None:
    """Fill `log`; `odd` keeps the text of a time that SQL could not read."""
    group = f", trim(CAST({names['group']} AS VARCHAR)) AS user_group" if "group" in names else ""
    engine.rows(
        f"CREATE TABLE log AS SELECT trim(CAST({names['user']} AS VARCHAR)) AS user, {clock} AS time, "
        f"CASE WHEN ({clock}) IS NULL THEN {stamp} END AS odd, CAST({names.get('place', 'NULL')} AS VARCHAR) AS place, "
        f"CAST({names['behavior']} AS VARCHAR) AS behavior{group} FROM {relation}"
    )


def _source(path: Path, where: Where, columns: ColumnMap) -> Source:
    return Source((path,), where, columns.place_facts, grouped=columns.group is not None)


def _finish(engine: Engine, source: Source, columns: ColumnMap) -> Source:
    if engine.number("SELECT count(*) FROM log") == 0:
        raise EdgebError(f"{source.files[0]} has no rows", "pass a log with one row per event")
    settle_times(engine, source.where)
    require_users(engine, source.where, columns.user)
    if columns.group is not None:
        require_groups(engine, source.where, columns.group)
    return source
