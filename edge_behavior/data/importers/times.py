"""The times of a log in bulk: `clock.parse_time` as DuckDB expressions.

SQL reads the usual forms, row by row and in the order of the log; what it leaves NULL goes through `parse_time`, which
decides. The two agree wherever SQL gives an answer. DuckDB's own time zones are not used: `zoneinfo` says the offsets,
so that a log and a history file are converted alike.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone, tzinfo

from edge_behavior.core.clock import UNITS, Clock
from edge_behavior.data.duck import Engine
from edge_behavior.data.importers.text import Where
from edge_behavior.errors import EdgebError

_WALL = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_OFFSET = r" ?(Z|z|UTC|GMT|[+-](0[0-9]|1[0-3])(:?[0-5][0-9])?)"
_MICROSECONDS = len("2024-03-18T07:05:00.123456")  # DuckDB takes no more digits
_DIGITS = {"s": 10, "ms": 13, "us": 16, "ns": 19}  # of a count that ends within some centuries
# Offsets are looked up for these years; SQL leaves other instants to parse_time.
_FIRST, _END = datetime(1970, 1, 1), datetime(2100, 1, 1)
_STEP = timedelta(hours=12)  # no zone has changed its offset there and back within one


def time_sql(stamp: str, clock: Clock) -> str:
    """A DuckDB expression: the local time that the trimmed text `stamp` stands for, or NULL where `parse_time` decides.

    `stamp` is a column's name: it occurs many times.
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
    """A DuckDB expression: the wall clock in the clock's zone at a UTC timestamp; NULL beyond the years looked up."""
    if clock.zone is None:
        raise ValueError("a clock without a zone converts nothing")
    bounds = f"t >= TIMESTAMP '{_FIRST}' AND t < TIMESTAMP '{_END}'"
    shift = _tree("t", offsets(clock.zone))
    # A list of one names the instant, which is a long expression, for the many places that need it.
    return f"list_transform([{instant}], lambda t: CASE WHEN {bounds} THEN t + to_seconds({shift}) END)[1]"


def offsets(zone: tzinfo) -> list[tuple[datetime, int]]:
    """From when (UTC, 1970 to 2099) which offset in seconds holds."""

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
    return found


def _delta(zone: tzinfo, instant: datetime) -> timedelta:
    return instant.replace(tzinfo=timezone.utc).astimezone(zone).utcoffset() or timedelta(0)


def _tree(name: str, steps: list[tuple[datetime, int]]) -> str:
    """A search tree of CASE expressions over the instants at which the offset changes."""
    if len(steps) == 1:
        return str(steps[0][1])
    middle = len(steps) // 2
    return (
        f"CASE WHEN {name} < TIMESTAMP '{steps[middle][0]}' THEN {_tree(name, steps[:middle])} "
        f"ELSE {_tree(name, steps[middle:])} END"
    )


def _offset_sql(stamp: str) -> str:
    """The interval that ends a text which has one."""
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


def settle_times(engine: Engine, where: Where, parse: Callable[[str, str], datetime]) -> None:
    """Parse the times that SQL left NULL with `parse`, and drop the column `odd` that holds their texts.

    Args:
        parse: (text, file:line) to time; raises EdgebError.

    Raises:
        EdgebError: the first text in the log that is no time, or no local one.
    """
    first = engine.rows("SELECT coalesce(odd, ''), rowid FROM log WHERE time IS NULL ORDER BY rowid LIMIT 1")
    if first:
        _parsed(first[0][0], first[0][1], where, parse)  # a log whose times are all of a wrong kind ends here
        odd = engine.rows(
            "SELECT coalesce(odd, '') AS text, min(rowid) AS first FROM log WHERE time IS NULL "
            "GROUP BY text ORDER BY first"
        )
        times = [_parsed(text, row, where, parse) for text, row in odd]
        engine.table("odd_times", {"text": [text for text, _ in odd], "value": times})
        engine.rows("UPDATE log SET time = value FROM odd_times WHERE log.odd = odd_times.text")
        engine.rows("DROP TABLE odd_times")
    engine.rows("ALTER TABLE log DROP COLUMN odd")


def _parsed(text: str, row: int, where: Where, parse: Callable[[str, str], datetime]) -> datetime:
    try:
        return parse(text, "log")
    except EdgebError:
        # Finding the line means reading the file up to it: only for the one that fails.
        parse(text, where(row))
        raise
