"""`clock.parse_time` as DuckDB expressions, to parse the times of a log in bulk.

SQL parses the common formats; what it leaves NULL goes to `parse_time`, which has the last word. The two agree wherever
SQL gives a time. Offsets come from `zoneinfo`, not from DuckDB's time zones, so that logs and history files convert
alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from functools import cache

from edge_behavior.core.times.clock import UNITS, Clock
from edge_behavior.data.duck import Database
from edge_behavior.data.importers.loaded_log import Locate
from edge_behavior.errors import EdgebError

_WALL = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_OFFSET = r" ?(Z|z|UTC|GMT|[+-](0[0-9]|1[0-3])(:?[0-5][0-9])?)"
_MICROSECONDS = len("2024-03-18T07:05:00.123456")  # DuckDB parses no more digits
_DIGITS = {"s": 10, "ms": 13, "us": 16, "ns": 19}  # of a count that stays within a few centuries of 1970
# Offsets are tabulated for these years; SQL leaves other instants to parse_time.
_FIRST, _END = datetime(1970, 1, 1), datetime(2100, 1, 1)
_STEP = timedelta(hours=12)  # no zone has changed its offset twice within one


def time_sql(stamp: str, clock: Clock) -> str:
    """A DuckDB expression: the local time of the trimmed text `stamp`, or NULL where `parse_time` must decide.

    `stamp` is a column name, because it occurs many times.
    """
    plain = f"regexp_full_match({stamp}, '{_DATE}|{_WALL}') AND NOT starts_with({stamp}, '0000')"
    written = f"regexp_full_match({stamp}, '{_WALL}{_OFFSET}') AND NOT starts_with({stamp}, '0000')"
    wall = f"TRY_CAST(left({stamp}, {_MICROSECONDS}) AS TIMESTAMP)"
    wall_before_offset = f"TRY_CAST(left(regexp_extract({stamp}, '^{_WALL}'), {_MICROSECONDS}) AS TIMESTAMP)"
    if clock.plain:
        return f"CASE WHEN {plain} THEN {wall} END"
    if clock.as_written:
        return f"CASE WHEN {plain} THEN {wall} WHEN {written} THEN {wall_before_offset} END"
    cases = [f"WHEN {written} THEN {local_sql(f'{wall_before_offset} - {_offset_sql(stamp)}', clock)}"]
    if clock.unit is not None:
        count = f"regexp_full_match({stamp}, '[0-9]{{1,{_DIGITS[clock.unit]}}}')"
        cases.append(f"WHEN {count} THEN {local_sql(_count_sql(stamp, clock.unit), clock)}")
        if clock.unit != "ns":
            fraction = f"regexp_full_match({stamp}, '[0-9]{{1,{_DIGITS[clock.unit]}}}\\.[0-9]{{1,9}}')"
            cases.append(f"WHEN {fraction} THEN {local_sql(_fraction_sql(stamp, clock.unit), clock)}")
    return f"CASE {' '.join(cases)} END"


def local_sql(instant: str, clock: Clock) -> str:
    """A DuckDB expression: the clock's local time at a UTC timestamp; NULL outside the tabulated years."""
    if clock.zone is None:
        raise ValueError("a clock without a zone converts nothing")
    bounds = f"t >= TIMESTAMP '{_FIRST}' AND t < TIMESTAMP '{_END}'"
    shift = _tree("t", offsets(clock.zone))
    # list_transform over one element binds the long expression `instant` to a name.
    return f"list_transform([{instant}], lambda t: CASE WHEN {bounds} THEN t + to_seconds({shift}) END)[1]"


@cache
def offsets(zone: tzinfo) -> tuple[tuple[datetime, int], ...]:
    """The zone's offsets in seconds from 1970 to 2099, each with the UTC time from which it holds."""

    def at(instant: datetime) -> int:
        return round(_delta(zone, instant).total_seconds())

    found = [(_FIRST, at(_FIRST))]
    before = _FIRST
    while before < _END:
        after = before + _STEP
        if at(after) != found[-1][1]:
            low, high = before, after
            while high - low > timedelta(seconds=1):
                middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
                low, high = (middle, high) if at(middle) == found[-1][1] else (low, middle)
            found.append((high, at(high)))
        before = after
    return tuple(found)


def _delta(zone: tzinfo, instant: datetime) -> timedelta:
    return instant.replace(tzinfo=timezone.utc).astimezone(zone).utcoffset() or timedelta(0)


def _tree(name: str, steps: Sequence[tuple[datetime, int]]) -> str:
    """A binary search over the offset changes, as nested CASE expressions."""
    if len(steps) == 1:
        return str(steps[0][1])
    middle = len(steps) // 2
    return (
        f"CASE WHEN {name} < TIMESTAMP '{steps[middle][0]}' THEN {_tree(name, steps[:middle])} "
        f"ELSE {_tree(name, steps[middle:])} END"
    )


def _offset_sql(stamp: str) -> str:
    """The offset at the end of a time, as an interval."""
    hours, minutes = (f"regexp_extract({stamp}, '([+-][0-9]{{2}}):?([0-9]{{2}})?$', {i})" for i in (1, 2))
    sign = f"CASE WHEN starts_with({hours}, '-') THEN -1 ELSE 1 END"
    size = f"TRY_CAST({hours} AS INTEGER) * 60 + {sign} * coalesce(TRY_CAST({minutes} AS INTEGER), 0)"
    return f"to_minutes(CASE WHEN right({stamp}, 1) IN ('Z', 'z', 'C', 'T') THEN 0 ELSE {size} END)"


def _count_sql(stamp: str, unit: str) -> str:
    number = f"TRY_CAST({stamp} AS BIGINT)"
    return f"make_timestamp({number} // 1000)" if unit == "ns" else f"make_timestamp({number} * {UNITS[unit] // 1000})"


def _fraction_sql(stamp: str, unit: str) -> str:
    number = f"CAST({stamp} AS DECIMAL(25, 9))"
    return f"make_timestamp(CAST(floor({number} * {UNITS[unit] // 1000}) AS BIGINT))"


def settle_times(database: Database, locate: Locate, parse: Callable[[str, str], datetime]) -> None:
    """Parse with `parse` the times that SQL left NULL, and drop the column `odd` that holds their texts.

    Args:
        parse: (text, file:line) to time; raises EdgebError.

    Raises:
        EdgebError: naming the first text in the log that is not a time, or not a local one.
    """
    first = database.query("SELECT coalesce(odd, ''), rowid FROM log WHERE time IS NULL ORDER BY rowid LIMIT 1")
    if first:
        _parsed(first[0][0], first[0][1], locate, parse)  # fails early if all times are in a wrong format
        odd = database.query(
            "SELECT coalesce(odd, '') AS text, min(rowid) AS first FROM log WHERE time IS NULL "
            "GROUP BY text ORDER BY first"
        )
        times = [_parsed(text, row, locate, parse) for text, row in odd]
        database.create_table("odd_times", {"text": [text for text, _ in odd], "value": times})
        database.execute("UPDATE log SET time = value FROM odd_times WHERE log.odd = odd_times.text")
        database.execute("DROP TABLE odd_times")
    database.execute("ALTER TABLE log DROP COLUMN odd")


def _parsed(text: str, row: int, locate: Locate, parse: Callable[[str, str], datetime]) -> datetime:
    try:
        return parse(text, "log")
    except EdgebError:
        # Finding the line means reading the file up to it, so only for the text that fails.
        parse(text, locate(row))
        raise
