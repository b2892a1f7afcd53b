"""Parse times: ISO 8601 in one strict grammar, or numbers since 1970, into the user's local time.

The grammar is edgeb's own, since `datetime.fromisoformat` accepts different texts in different Python versions. Events
are kept in local time without a zone; a `Clock` says how to convert times that have one. Knows nothing of files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from edge_behavior.errors import EdgebError, nearest

AS_WRITTEN = "as-written"
UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}  # nanoseconds
MAX_OFFSET = timedelta(hours=14)
EPOCH = datetime(1970, 1, 1)

_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_DATE = r"(?P<year>[0-9]{4})(?P<dash>-?)(?P<month>[0-9]{2})(?P=dash)(?P<day>[0-9]{2})"
_CLOCK = (
    r"(?P<hour>[0-9]{2})(?:(?P<colon>:?)(?P<minute>[0-9]{2})"
    r"(?:(?P=colon)(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?)?"
)
_ZONE = r" ?(?P<zone>[Zz]|UTC|GMT|(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-9]{2}))?)"
_ISO = re.compile(f"{_DATE}(?:[Tt ]{_CLOCK}(?:{_ZONE})?)?")
_NUMBER = re.compile(r"(-?[0-9]{1,19})(?:\.([0-9]{1,19}))?")
_FIXED = re.compile(r"(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-9]{2}))?")
# Numbers taken for a count since 1970 in an error message: from 1980 to 2286, in any unit.
_PLAUSIBLE = (315_360_000, 10**10)  # seconds
_WRITE_ISO = "write ISO 8601 local time, like 2012-05-01T18:00"
# Common formats that are not ISO 8601, and what to do about each.
_FOREIGN = (
    (
        re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [+-][0-9]{4} [0-9]{4}"),
        "write ISO 8601; Foursquare check-ins in this format are read by --format tsmc2014",
    ),
    (re.compile(r"[0-9]{1,2}[/.][0-9]{1,2}[/.][0-9]{2,4}.*"), f"day and month cannot be told apart: {_WRITE_ISO}"),
    (re.compile(r"[0-9]{14}|[0-9]{12}"), f"its digits need marks: {_WRITE_ISO}"),
)


@dataclass(frozen=True)
class Clock:
    """How written times become the user's local time.

    Attributes:
        zone: The user's zone: times with an offset, and numbers since 1970, are converted to its wall clock.
        as_written: Keep the wall time before an offset and drop the offset.
        unit: Unit of numbers since 1970, a key of UNITS; None refuses numbers.
    """

    zone: tzinfo | None = None
    as_written: bool = False
    unit: str | None = None

    @property
    def plain(self) -> bool:
        """Whether times must already be local: written without an offset."""
        return self.zone is None and not self.as_written


LOCAL = Clock()


def make_clock(timezone_name: str | None = None, unit: str | None = None) -> Clock:
    """A clock from a user's settings.

    Args:
        timezone_name: An IANA name like `Europe/Berlin`, an offset like `+02:00`, `utc`, or `as-written`; None for
            times that are local already.
        unit: A key of UNITS, or None.

    Raises:
        EdgebError: no such zone or unit, or a unit without a zone.
    """
    if unit is not None and unit not in UNITS:
        raise EdgebError(f"unknown time unit '{unit}'", f"use one of {', '.join(UNITS)}")
    name = (timezone_name or "").strip()
    if timezone_name is None:
        if unit is not None:
            raise EdgebError(
                f"--time-unit {unit} counts from 1970 in UTC, but the users' zone is not given",
                "add --timezone, like Europe/Berlin",
            )
        return LOCAL
    if name.lower() == AS_WRITTEN:
        if unit is not None:
            raise EdgebError(
                f"--timezone {AS_WRITTEN} does not apply to numbers, which are written without a zone",
                "name the users' zone, like Europe/Berlin",
            )
        return Clock(as_written=True)
    return Clock(zone=_zone(name), unit=unit)


def _zone(name: str) -> tzinfo:
    fixed = _FIXED.fullmatch(name)
    if fixed:
        offset = _offset(fixed)
        if offset is None or abs(offset) > MAX_OFFSET:
            raise EdgebError(f"time zone '{name}' is beyond 14 hours", "use an offset like +02:00")
        return timezone(offset)
    if name.lower() in ("utc", "z", "gmt"):
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = available_timezones()
    if not known:
        raise EdgebError("this Python has no time zone data", "pip install tzdata")
    towns = {zone.rpartition("/")[2]: zone for zone in sorted(known)}
    town = towns.get(name.replace(" ", "_").title())
    close = nearest(name, known, fallback=0) if "/" in name else ""
    hint = f"use an IANA name like Europe/Berlin, an offset like +02:00, or {AS_WRITTEN}"
    if town or close.startswith("did you mean"):
        hint = f"did you mean '{town}'?" if town else close
    raise EdgebError(f"unknown time zone '{name}'", hint)


def parse_time(text: str, where: str, clock: Clock = LOCAL) -> datetime:
    """The local time a text stands for, without a zone; digits beyond microseconds are dropped.

    ISO 8601: a date, or a date and a time separated by `T` or a space, with or without dashes and colons; seconds and
    their fraction are optional; `Z`, `UTC`, `+02:00`, `+0200` or `+02` may follow a time.

    Args:
        where: Names the file and line, for the error message.
        clock: What to do with offsets and numbers; by default both are refused.

    Raises:
        EdgebError: not a time, an offset that is missing or not expected, or a year outside 1 to 9999.
    """
    trimmed = text.strip()
    number = _NUMBER.fullmatch(trimmed)
    if number and clock.zone is not None and clock.unit is not None:
        return _local(EPOCH, _microseconds(number, clock.unit), clock.zone, trimmed, where)
    found = _ISO.fullmatch(trimmed)
    wall = _wall(found) if found else None
    offset = _offset(found) if found else None
    if found is None or wall is None or offset is None:
        raise _refusal(trimmed, where)
    if abs(offset) > MAX_OFFSET:
        raise EdgebError(f"{where}: '{trimmed}' has an offset beyond 14 hours", "no time zone has one; correct the row")
    if found["zone"] is None and clock.zone is not None:
        raise EdgebError(
            f"{where}: '{trimmed}' has no offset that --timezone could convert from",
            "leave --timezone out if the times are local already; append Z if they are UTC",
        )
    if found["zone"] is None or clock.as_written:
        return wall
    if clock.zone is None:
        hint = "pass --timezone with the users' zone, like Europe/Berlin"
        if found["sign"]:
            hint += f", or --timezone {AS_WRITTEN} if the offset is the user's own"
        raise EdgebError(f"{where}: '{trimmed}' carries a time zone", hint)
    return _local(wall, -offset // timedelta(microseconds=1), clock.zone, trimmed, where)


def _wall(found: re.Match[str]) -> datetime | None:
    part = {key: int(found[key] or 0) for key in ("year", "month", "day", "hour", "minute", "second")}
    try:
        return datetime(**part, microsecond=int((found["fraction"] or "")[:6].ljust(6, "0")))  # type: ignore[arg-type]
    except ValueError:
        return None


def _offset(found: re.Match[str]) -> timedelta | None:
    """The offset after a time, zero without one; None where its minutes are out of range."""
    if found["sign"] is None:
        return timedelta(0)
    hours, minutes = int(found["hours"]), int(found["minutes"] or 0)
    size = timedelta(hours=hours, minutes=minutes)
    return None if minutes > 59 else -size if found["sign"] == "-" else size


def _microseconds(number: re.Match[str], unit: str) -> int:
    """A count since 1970 in microseconds, rounded down."""
    whole, fraction = number[1], number[2] or ""
    return int(whole + fraction) * UNITS[unit] // int(1000 * 10 ** len(fraction))


def _local(start: datetime, after: int, zone: tzinfo, text: str, where: str) -> datetime:
    """The wall clock in `zone`, `after` microseconds after the UTC time `start`."""
    try:
        instant = start + timedelta(microseconds=after)
        return instant.replace(tzinfo=timezone.utc).astimezone(zone).replace(tzinfo=None, fold=0)
    except (OverflowError, ValueError):
        raise EdgebError(f"{where}: '{text}' is outside the years 1 to 9999", "check the time's unit") from None


def _refusal(text: str, where: str) -> EdgebError:
    """Why a text is not a time, and what it may be instead."""
    number = _NUMBER.fullmatch(text)
    low, high = _PLAUSIBLE
    for unit, size in UNITS.items():
        per_second = 10**9 // size
        if number and low * per_second <= int(number[1]) < high * per_second:
            seen = EPOCH + timedelta(microseconds=_microseconds(number, unit))
            return EdgebError(
                f"{where}: '{text}' looks like {_NAMES[unit]} since 1970 ({seen:%Y-%m-%d %H:%M} UTC)",
                f"pass --time-unit {unit} and --timezone with the users' zone, like Europe/Berlin",
            )
    hint = next((hint for form, hint in _FOREIGN if form.fullmatch(text)), _WRITE_ISO)
    return EdgebError(f"{where}: '{text}' is not a time", hint)
