"""Generic logs: delimited text, JSON and Parquet with a user, a time, a place (or none) and a behavior per row.

Knows column names and types; what the values mean is settled elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from edge_behavior.core.clock import AS_WRITTEN, Clock, parse_time
from edge_behavior.data.duck import Engine, damaged_parquet, file_literal
from edge_behavior.data.importers.bulk import CELLS, read_into
from edge_behavior.data.importers.source import Source
from edge_behavior.data.importers.text import Where
from edge_behavior.data.importers.times import local_sql, settle_times, time_sql
from edge_behavior.data.importers.values import require_groups, require_users
from edge_behavior.errors import EdgebError
from edge_behavior.records.reader import open_records, require_fields

_TIMES = ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE")
_ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
_INTEGERS = tuple(
    f"{sign}{size}" for sign in ("", "U") for size in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
)
_NAMES = ("VARCHAR", "UUID", *_INTEGERS)


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


def check_columns(columns: ColumnMap) -> None:
    """Refuse one column in two roles.

    Raises:
        EdgebError: naming the column and both roles.
    """
    roles: dict[str, str] = {}
    for role, name in columns.named.items():
        if name in roles:
            first = roles[name]
            hint = f"--{first}-column and --{role}-column must differ"
            if "place" in (first, role):
                hint += "; a log without places is imported with --no-place"
            raise EdgebError(f"column '{name}' is to be both the {first} and the {role}", hint)
        roles[name] = role


def load_text(engine: Engine, path: Path, columns: ColumnMap, clock: Clock) -> Source:
    """Load delimited text with a header, JSON lines or a JSON list of objects; which of them, the content says.

    Raises:
        EdgebError: a column that is missing, a record that is broken or holds no text, a bad time, no user.
    """
    file = open_records(path, list(columns.named.values()))
    roles = _find(path, file.names, columns)
    wanted = list(roles.values())
    cells = dict(zip(roles, CELLS[: len(roles)], strict=True))
    read_into(engine, file, wanted, lambda relation: _create(engine, relation, cells, time_sql("stamp", clock)))

    def where(row: int) -> str:
        found = next(islice(file.records(wanted), row, None), None)
        return f"{path}:{found[0]}" if found else str(path)

    return _finish(engine, _source(path, where, columns), columns, clock)


def load_parquet(engine: Engine, path: Path, columns: ColumnMap, clock: Clock) -> Source:
    """Load a Parquet file; times may be text, timestamps, or numbers since 1970.

    Raises:
        EdgebError: as `load_text`, and a column of a type that cannot be what it is said to be.
    """
    relation = f"read_parquet({file_literal(path)})"
    with damaged_parquet(path):
        types = {str(name): str(kind) for name, kind, *_ in engine.rows(f"DESCRIBE SELECT * FROM {relation}")}
    found = _find(path, list(types), columns)
    for role in (role for role in found if role != "time"):
        held = types[found[role]]
        if held not in _NAMES:
            raise EdgebError(f"{path}: column '{found[role]}' holds {held}", "store text or integers")
    names = {role: _identifier(name) for role, name in found.items()}
    _check_time_type(f"{path}: column '{found['time']}'", types[found["time"]], clock)
    time, moment = time_sql("stamp", clock), None
    if types[found["time"]] in _ZONED:
        # Their cast to TIMESTAMP would take the session's time zone where they count nanoseconds.
        time = local_sql("make_timestamp(epoch_us(CAST(moment AS TIMESTAMP WITH TIME ZONE)))", clock)
        moment = names["time"]
    elif types[found["time"]] in _TIMES:
        local = "CAST(moment AS TIMESTAMP)"
        time = f"CASE WHEN isfinite({local}) AND year({local}) BETWEEN 1 AND 9999 THEN {local} END"
        moment = names["time"]
    with damaged_parquet(path):
        _create(engine, relation, names, time, moment)
    return _finish(engine, _source(path, lambda row: f"{path} row {row + 1}", columns), columns, clock)


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


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _find(path: Path, names: Sequence[str], columns: ColumnMap) -> dict[str, str]:
    """Check that each role's column is there, once."""
    wanted = columns.named
    hints = [f"name it with --{role}-column" for role in wanted]
    if "place" in wanted:
        hints[list(wanted).index("place")] += ", or pass --no-place if the log has none"
    require_fields(path, names, list(wanted.values()), hints)
    return wanted


def _create(engine: Engine, relation: str, columns: dict[str, str], time: str, moment: str | None = None) -> None:
    """Fill `log`; `odd` keeps the text of a time that SQL could not read.

    Args:
        columns: Role to its SQL expression over `relation`.
        time: SQL expression of the local time, over `stamp`, the trimmed text of the time column, and `moment`.
        moment: The time column as it is stored, where it is no text.
    """
    taken = "" if moment is None else f", {moment} AS moment"
    taken += f", trim(CAST({columns['group']} AS VARCHAR)) AS user_group" if "group" in columns else ""
    kept = ", user_group" if "group" in columns else ""
    place = columns.get("place", "NULL")
    engine.rows(
        f"CREATE TABLE log AS SELECT user, time, CASE WHEN time IS NULL THEN stamp END AS odd, place, behavior{kept} "
        f"FROM (SELECT *, {time} AS time FROM (SELECT trim(CAST({columns['user']} AS VARCHAR)) AS user, "
        f"trim(CAST({columns['time']} AS VARCHAR)) AS stamp, CAST({place} AS VARCHAR) AS place, "
        f"CAST({columns['behavior']} AS VARCHAR) AS behavior{taken} FROM {relation}))"
    )


def _source(path: Path, where: Where, columns: ColumnMap) -> Source:
    return Source((path,), where, columns.place_facts, grouped=columns.group is not None)


def _finish(engine: Engine, source: Source, columns: ColumnMap, clock: Clock) -> Source:
    if engine.number("SELECT count(*) FROM log") == 0:
        raise EdgebError(f"{source.files[0]} has no rows", "pass a log with one row per event")
    settle_times(engine, source.where, lambda text, where: parse_time(text, where, clock))
    require_users(engine, source.where, columns.user)
    if columns.group is not None:
        require_groups(engine, source.where, columns.group)
    return source
