"""One grammar for times on every Python; offsets and numbers need a clock that says what to make of them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.times.clock import UNITS, make_clock, parse_time
from edge_behavior.errors import EdgebError

BERLIN = make_clock("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (" 2012-05-01T18:00 ", datetime(2012, 5, 1, 18)),
        ("2012-05-01 18:00:07", datetime(2012, 5, 1, 18, 0, 7)),
        ("2012-05-01", datetime(2012, 5, 1)),
        ("20120501", datetime(2012, 5, 1)),
        ("2012-05-01T18", datetime(2012, 5, 1, 18)),
        ("2024-03-18T07:05:00.5", datetime(2024, 3, 18, 7, 5, 0, 500_000)),
        ("2024-03-18T07:05:00,25", datetime(2024, 3, 18, 7, 5, 0, 250_000)),
        ("2024-03-18t07:05:00.123456789", datetime(2024, 3, 18, 7, 5, 0, 123_456)),
        ("20240318T070500", datetime(2024, 3, 18, 7, 5)),
        ("20240318 0705", datetime(2024, 3, 18, 7, 5)),
        ("0001-01-01", datetime(1, 1, 1)),
        ("9999-12-31T23:59:59.999999999", datetime(9999, 12, 31, 23, 59, 59, 999_999)),
    ],
)
def test_local_times(text, time):
    assert parse_time(text, "x") == time


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "18:00", "2012-13-01T00:00", "2012-05-01T25:00", "2012-05-01T24:00", "2012-05-01T18:00:60"),
        *("2012-02-30", "0000-01-01", "2012-W18-2", "2012-122", "2012-0501", "2012-05-01x18:00", "2012-05-01T1800:00"),
        *("2012-05-01T18:00:00.1234567890", "٢٠١٢-05-01", "1.7e9", "18", "2012-05-01T18:00+02:75", "2012-05-01+02:00"),
    ],
)
def test_not_a_time(text):
    with pytest.raises(EdgebError, match=r"log\.csv:7: .* is not a time") as caught:
        parse_time(text, "log.csv:7")
    assert "ISO 8601" in caught.value.hint


@pytest.mark.parametrize("zone", ["Z", "z", " UTC", "+02:00", "+0200", "+02", " -05:30", "-00:00"])
def test_an_offset_is_refused_not_dropped(zone):
    with pytest.raises(EdgebError, match="carries a time zone") as caught:
        parse_time(f"2012-05-01T18:00{zone}", "--at")
    assert "--timezone" in caught.value.hint
    # The offset may be the user's own; Z never is one.
    assert ("as-written" in caught.value.hint) == any(c in zone for c in "+-")


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("2024-03-18T07:05Z", "2024-03-18T08:05"),
        ("2024-03-18 07:05:00 UTC", "2024-03-18T08:05"),
        ("2024-03-18T07:05+05:30", "2024-03-18T02:35"),
        ("2024-03-31T00:59:59Z", "2024-03-31T01:59:59"),
        ("2024-03-31T01:00:00Z", "2024-03-31T03:00:00"),  # 02:00 to 03:00 does not exist
        ("2024-10-27T00:30Z", "2024-10-27T02:30"),  # 02:30 comes twice
        ("2024-10-27T01:30Z", "2024-10-27T02:30"),
        ("2023-12-31T23:30Z", "2024-01-01T00:30"),
    ],
)
def test_offsets_are_converted(text, local):
    time = parse_time(text, "x", BERLIN)
    assert time == datetime.fromisoformat(local)
    assert (time.tzinfo, time.fold) == (None, 0)


def test_as_written_drops_the_offset_only():
    clock = make_clock("as-written")
    for zone in ("Z", "+09:00", "-0330", ""):
        assert parse_time(f"2024-03-18T07:05{zone}", "x", clock) == datetime(2024, 3, 18, 7, 5)


def test_a_zone_does_not_apply_to_local_times():
    with pytest.raises(EdgebError, match="has no offset") as caught:
        parse_time("2024-03-18T07:05", "log.csv:2", BERLIN)
    assert "leave --timezone out" in caught.value.hint


@pytest.mark.parametrize("text", ["2024-03-18T07:05+14:01", "2024-03-18T07:05-15", "2024-03-18T07:05+9900"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "as-written"])
def test_no_offset_is_beyond_14_hours(text, zone):
    with pytest.raises(EdgebError, match="beyond 14 hours"):
        parse_time(text, "x", make_clock(zone))


@pytest.mark.parametrize(
    ("text", "unit", "name"),
    [
        ("1710748440", "s", "seconds"),
        ("1710748440.25", "s", "seconds"),
        ("1710748440000", "ms", "milliseconds"),
        ("1710748440000000", "us", "microseconds"),
        ("1710748440000000000", "ns", "nanoseconds"),
    ],
)
def test_the_unit_of_a_number_is_named_and_taken_when_told(text, unit, name):
    with pytest.raises(EdgebError, match=rf"{name} since 1970 \(2024-03-18 07:54 UTC\)") as caught:
        parse_time(text, "log.csv:2")
    assert f"--time-unit {unit}" in caught.value.hint
    with pytest.raises(EdgebError, match=name):
        parse_time(text, "log.csv:2", BERLIN)
    time = parse_time(text, "x", make_clock("Europe/Berlin", unit))
    assert time.replace(microsecond=0) == datetime(2024, 3, 18, 8, 54)


def test_formats_that_are_common_elsewhere_are_recognized():
    for text, words in [
        ("Tue Apr 03 18:00:09 +0000 2012", "--format tsmc2014"),
        ("03/18/2024 07:54", "day and month"),
        ("18.03.24", "day and month"),
        ("20240318075400", "marks"),
    ]:
        with pytest.raises(EdgebError, match="is not a time") as caught:
            parse_time(text, "x")
        assert words in caught.value.hint


@pytest.mark.parametrize("text", ["9999-12-31T23:59Z", "0001-01-01T00:00+02:00", "9" * 19])
def test_beyond_the_calendar(text):
    with pytest.raises(EdgebError, match="outside the years 1 to 9999"):
        parse_time(text, "x", make_clock("+01:00" if text[0] == "9" else "-01:00", "s"))


@pytest.mark.parametrize(
    ("zone", "unit", "message", "hint"),
    [
        ("Berlin", None, "unknown time zone", "'Europe/Berlin'"),
        ("New York", None, "unknown time zone", "'America/New_York'"),
        ("europe/berlin", None, "unknown time zone", "'Europe/Berlin'"),
        ("CEST", None, "unknown time zone", "IANA name"),
        ("../etc/passwd", None, "unknown time zone", "IANA name"),
        ("", None, "unknown time zone", "IANA name"),
        ("+15:00", None, "beyond 14 hours", "+02:00"),
        (None, "ms", "zone is not given", "--timezone"),
        ("as-written", "ms", "does not apply to numbers", "zone"),
        ("UTC", "minutes", "unknown time unit", "s, ms, us, ns"),
    ],
)
def test_clocks_that_make_no_sense(zone, unit, message, hint):
    with pytest.raises(EdgebError, match=message) as caught:
        make_clock(zone, unit)
    assert hint in caught.value.hint


ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
)
INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))


@settings(max_examples=200, deadline=None)
@given(INSTANTS, st.integers(-14 * 60, 14 * 60), st.sampled_from(ZONES))
def test_an_instant_is_the_same_however_it_is_written(instant, minutes, zone):
    clock, moved = make_clock(zone), instant + timedelta(minutes=minutes)
    expected = instant.replace(tzinfo=timezone.utc).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    offset = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    assert parse_time(f"{instant.isoformat()}Z", "x", clock) == expected
    assert parse_time(f"{moved.isoformat(' ')}{offset}", "x", clock) == expected
    micros = (instant - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    assert parse_time(str(micros), "x", make_clock(zone, "us")) == expected
    assert parse_time(f"{micros // 10**6}.{micros % 10**6:06d}", "x", make_clock(zone, "s")) == expected or micros < 0


@settings(max_examples=200, deadline=None)
@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_what_python_writes_is_read_back(time):
    assert parse_time(time.isoformat(), "x") == time
    assert parse_time(time.strftime("%Y%m%dT%H%M%S").rjust(15, "0"), "x") == time.replace(microsecond=0)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789-:T. Z+,/e"), max_size=30) | st.text(max_size=30))
def test_any_text_is_a_time_or_one_line(text):
    for clock in (make_clock(), BERLIN, make_clock("as-written"), make_clock("+05:30", "ns")):
        try:
            time = parse_time(text, "x", clock)
        except EdgebError:
            continue
        assert time.tzinfo is None


def test_every_unit_has_a_size():
    assert [UNITS[unit] for unit in ("s", "ms", "us", "ns")] == [10**9, 10**6, 10**3, 1]
