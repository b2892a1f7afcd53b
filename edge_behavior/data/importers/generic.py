"""Generic logs: delimited text, JSON or Parquet with a user, a time, a behavior and perhaps a place per row.

Knows column names and types, not what the values mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from edge_behavior.core.times.clock import AS_WRITTEN, Clock, parse_time
from edge_behavior.data.duck import Database, damaged_parquet, file_literal
from edge_behavior.data.importers.checks import require_groups, require_users
from edge_behavior.data.importers.load_records import CELLS, load_records
from edge_behavior.data.importers.loaded_log import LoadedLog, Locate
from edge_behavior.data.importers.options import ColumnMap
from edge_behavior.data.importers.times import local_sql, settle_times, time_sql
from edge_behavior.data.info import PlaceInfo
from edge_behavior.errors import EdgebError
from edge_behavior.records.reader import open_records, require_fields

_TIMES = ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE")
_ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
_INTEGERS = tuple(
    f"{sign}{size}" for sign in ("", "U") for size in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
)
_NAMES = ("VARCHAR", "UUID", *_INTEGERS)


def load_text(database: Database, path: Path, columns: ColumnMap, clock: Clock) -> LoadedLog:
    """Load delimited text with a header, JSON lines or a JSON list of objects, told apart by content.

    Raises:
        EdgebError: a missing column, a broken record, a value that is not text, a bad time, or a missing user.
    """
    file = open_records(path, list(columns.named.values()))
    roles = _find_columns(path, file.names, columns)
    wanted = list(roles.values())
    cells = dict(zip(roles, CELLS[: len(roles)], strict=True))
    time = time_sql("stamp", clock)
    load_records(database, file, wanted, lambda relation: _create_log(database, relation, cells, time))

    def locate(row: int) -> str:
        found = next(islice(file.records(wanted), row, None), None)
        return f"{path}:{found[0]}" if found else str(path)

    return _checked(database, path, locate, columns, clock)


def load_parquet(database: Database, path: Path, columns: ColumnMap, clock: Clock) -> LoadedLog:
    """Load a Parquet file; times may be text, timestamps, or numbers since 1970.

    Raises:
        EdgebError: as `load_text`, or a column of an unsuitable type.
    """
    relation = f"read_parquet({file_literal(path)})"
    with damaged_parquet(path):
        described = database.query(f"DESCRIBE SELECT * FROM {relation}")
        names = _stored_names(database, path)
    names += [name for name, *_ in described[len(names) :]]
    found = _find_columns(path, names, columns)
    at = {role: described[names.index(name)] for role, name in found.items()}
    types = {role: str(kind) for role, (_, kind, *_) in at.items()}
    for role in (role for role in found if role != "time"):
        if types[role] not in _NAMES:
            raise EdgebError(f"{path}: column '{found[role]}' holds {types[role]}", "store text or integers")
    identifiers = {role: _identifier(str(name)) for role, (name, *_) in at.items()}
    _check_time_type(f"{path}: column '{found['time']}'", types["time"], clock)
    time, moment = time_sql("stamp", clock), None
    if types["time"] in _ZONED:
        # Cast to TIMESTAMP directly, nanosecond times would be converted to the session's time zone.
        time = local_sql("make_timestamp(epoch_us(CAST(moment AS TIMESTAMP WITH TIME ZONE)))", clock)
        moment = identifiers["time"]
    elif types["time"] in _TIMES:
        local = "CAST(moment AS TIMESTAMP)"
        time = f"CASE WHEN isfinite({local}) AND year({local}) BETWEEN 1 AND 9999 THEN {local} END"
        moment = identifiers["time"]
    with damaged_parquet(path):
        _create_log(database, relation, identifiers, time, moment)
    return _checked(database, path, lambda row: f"{path} row {row + 1}", columns, clock)


def _stored_names(database: Database, path: Path) -> list[str]:
    """Column names as the file has them; DuckDB renames one that differs from another only by case."""
    schema = database.query(f"SELECT name, num_children FROM parquet_schema({file_literal(path)})")
    names, at = [], 1  # the first element is the root
    while at < len(schema):
        names.append(str(schema[at][0]))
        pending = 1
        while pending:
            pending += int(schema[at][1] or 0) - 1
            at += 1
    return names


def _check_time_type(column: str, kind: str, clock: Clock) -> None:
    if kind in _ZONED:
        if clock.zone is None:
            said = f", so --timezone {AS_WRITTEN} does not apply" if clock.as_written else ""
            raise EdgebError(
                f"{column} carries a time zone{said}", "pass --timezone with the users' zone, like Europe/Berlin"
            )
    elif kind in _TIMES:
        if clock.zone is not None:
            raise EdgebError(
                f"{column} has no time zone for --timezone to convert from",
                "drop --timezone if the times are local; store UTC times as timestamps with time zone UTC",
            )
    elif kind not in ("VARCHAR", "DOUBLE", *_INTEGERS) and not kind.startswith("DECIMAL"):
        raise EdgebError(f"{column} holds {kind}, not times", "store local timestamps, or ISO 8601 text")


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _find_columns(path: Path, names: Sequence[str], columns: ColumnMap) -> dict[str, str]:
    """Column per role, each of which the file has once."""
    wanted = columns.named
    hints = [f"name it with --{role}-column" for role in wanted]
    if "place" in wanted:
        hints[list(wanted).index("place")] += ", or pass --no-place if the log has no places"
    require_fields(path, names, list(wanted.values()), hints)
    return wanted


def _create_log(
    database: Database, relation: str, columns: dict[str, str], time: str, moment: str | None = None
) -> None:
    """Create the table `log`; its column `odd` keeps the text of times that SQL did not parse.

    Args:
        columns: SQL expression per role, over `relation`.
        time: SQL expression of the local time, over `stamp`, the trimmed text of the time column, and `moment`.
        moment: The time column as stored, where it is not text.
    """
    taken = "" if moment is None else f", {moment} AS moment"
    taken += f", trim(CAST({columns['group']} AS VARCHAR)) AS user_group" if "group" in columns else ""
    kept = ", user_group" if "group" in columns else ""
    place = columns.get("place", "NULL")
    database.execute(
        f"CREATE TABLE log AS SELECT user, time, CASE WHEN time IS NULL THEN stamp END AS odd, place, behavior{kept} "
        f"FROM (SELECT *, {time} AS time FROM (SELECT trim(CAST({columns['user']} AS VARCHAR)) AS user, "
        f"trim(CAST({columns['time']} AS VARCHAR)) AS stamp, CAST({place} AS VARCHAR) AS place, "
        f"CAST({columns['behavior']} AS VARCHAR) AS behavior{taken} FROM {relation}))"
    )


def _checked(database: Database, path: Path, locate: Locate, columns: ColumnMap, clock: Clock) -> LoadedLog:
    if database.query_int("SELECT count(*) FROM log") == 0:
        raise EdgebError(f"{path} has no rows", "pass a log with one row per event")
    settle_times(database, locate, lambda text, where: parse_time(text, where, clock))
    require_users(database, locate, columns.user)
    if columns.group is not None:
        require_groups(database, locate, columns.group)
    place = PlaceInfo(kind="none" if columns.place is None else "column", count=0)
    return LoadedLog((path,), locate, place, grouped=columns.group is not None)
