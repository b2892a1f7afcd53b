"""The times of a log in bulk: SQL and `parse_time` agree, in every container."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.times.clock import make_clock, parse_time
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.duck import Database, literal
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ImportOptions
from edge_behavior.data.importers.times import offsets, time_sql
from edge_behavior.errors import EdgebError

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with Database(tmp_path_factory.mktemp("database")) as database:
        yield database


def agree(database, texts, zone, unit):
    clock = make_clock(zone, unit)
    values = ", ".join(f"({i}, {literal(text)})" for i, text in enumerate(texts))
    found = database.query(f"SELECT {time_sql('stamp', clock)} FROM (VALUES {values}) AS t(i, stamp) ORDER BY i")
    for text, (time,) in zip(texts, found, strict=True):
        if time is not None:
            assert time == parse_time(text, "x", clock), text
    return [time for (time,) in found]


MOMENTS = st.datetimes(datetime(1969, 12, 1), datetime(2101, 1, 1))
ENDS = st.sampled_from(["", "Z", " UTC", "+02:00", "-0330", "+14:00", " +05", "+15:00", "GMT", "-00:30", "+0560"])
FRACTIONS = st.sampled_from(["", ".5", ".123", ".123456", ".123456789", ".9999999"])
TEXTS = st.builds(
    lambda t, s, f, z: t.strftime(f"%Y-%m-%d{s}%H:%M:%S") + f + z, MOMENTS, st.sampled_from("T x"), FRACTIONS, ENDS
)
NUMBERS = st.integers(0, 2 * 10**19).map(str) | st.decimals(0, 10**16, places=7).map(lambda d: f"{d:f}")
CLOCKS = [
    (None, None),
    ("as-written", None),
    ("+05:30", "ns"),
    *((zone, unit) for zone in ZONES for unit in (None, "s", "ms", "us")),
]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(TEXTS | NUMBERS | st.text("0123456789-:T Z+.", max_size=22), min_size=1, max_size=20),
    st.sampled_from(CLOCKS),
)
def test_sql_reads_nothing_that_python_reads_otherwise(database, texts, clock):
    agree(database, texts, *clock)


def test_sql_reads_the_usual_forms_itself(database):
    plain = ["2024-03-18", "2024-03-18 07:05", "2024-03-18T07:05:00.5", "2024-03-18T07:05:00.123456789"]
    assert None not in agree(database, plain, None, None)
    written = ["2024-03-18T07:05Z", "2024-03-18 07:05:00.25+02:00", "2024-03-18T07:05:00-0330", "2024-03-18 07:05 UTC"]
    assert None not in agree(database, written, "Europe/Berlin", None)
    assert None not in agree(database, written + plain, "as-written", None)
    for unit, text in {
        "s": "1710748440",
        "ms": "1710748440000",
        "us": "1710748440000000",
        "ns": "1710748440" + "0" * 9,
    }.items():
        assert agree(database, [text], "Europe/Berlin", unit) == [datetime(2024, 3, 18, 8, 54)]


@pytest.mark.parametrize("zone", ZONES)
def test_offsets_change_when_the_zone_says(zone):
    steps, known = offsets(ZoneInfo(zone)), ZoneInfo(zone)
    for before, (instant, offset) in pairwise(steps):
        for moment, expected in ((instant - timedelta(seconds=1), before[1]), (instant, offset)):
            assert moment.replace(tzinfo=timezone.utc).astimezone(known).utcoffset() == timedelta(seconds=expected)
    assert (len(steps) > 1) == (zone != "Asia/Kolkata")


def converted(rows, write):
    """The same moments as local times, and as `write` puts them."""
    local = [(u, to_local(t).isoformat(), p, b) for u, t, p, b in rows]
    return local, [(u, write(datetime.fromisoformat(t).replace(tzinfo=timezone.utc)), p, b) for u, t, p, b in rows]


def to_local(text):
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).astimezone(BERLIN).replace(tzinfo=None)


@pytest.mark.parametrize(
    ("write", "unit"),
    [
        (lambda t: t.isoformat(), None),
        (lambda t: t.astimezone(ZoneInfo("Asia/Kolkata")).isoformat(" "), None),
        (lambda t: t.strftime("%Y%m%dT%H%M%SZ"), None),
        (lambda t: str(int(t.timestamp())), "s"),
        (lambda t: f"{t.timestamp():.3f}", "s"),
        (lambda t: str(int(t.timestamp()) * 1000), "ms"),
        (lambda t: str(int(t.timestamp()) * 10**9), "ns"),
    ],
)
def test_zoned_and_counted_times_give_the_local_dataset(tmp_path, make_rows, write_csv, write, unit):
    local, changed = converted(make_rows(users=3, events=60), write)
    import_log(write_csv(tmp_path / "local.csv", local), "csv", tmp_path / "local")
    options = {"timezone": "Europe/Berlin", "time_unit": unit}
    import_log(write_csv(tmp_path / "log.csv", changed), "csv", tmp_path / "csv", ImportOptions(**options))
    value = int if unit and "." not in changed[0][1] else float if unit else str
    lines = [json.dumps({"user_id": u, "timestamp": value(t), "place": p, "behavior": b}) for u, t, p, b in changed]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    info = import_log(tmp_path / "log.jsonl", "jsonl", tmp_path / "jsonl", ImportOptions(**options)).to_dict()
    names = ("user_id", "timestamp", "place", "behavior")
    columns = {name: list(column) for name, column in zip(names, zip(*changed, strict=True), strict=True)}
    columns["timestamp"] = [value(t) for t in columns["timestamp"]]
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    import_log(tmp_path / "log.parquet", "parquet", tmp_path / "parquet", ImportOptions(**options))
    expected = Dataset.open(tmp_path / "local").fingerprint
    assert {Dataset.open(tmp_path / name).fingerprint for name in ("csv", "jsonl", "parquet")} == {expected}
    assert {key: info["options"][key] for key in options} == options


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_timestamps_in_utc(tmp_path, make_rows, write_csv, unit, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # the machine's own zone must not matter
    local, changed = converted(make_rows(users=3), lambda t: t)
    names = ("user_id", "timestamp", "place", "behavior")
    columns = {name: list(column) for name, column in zip(names, zip(*changed, strict=True), strict=True)}
    columns["timestamp"] = pa.array(columns["timestamp"], pa.timestamp(unit, "UTC"))
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    import_log(write_csv(tmp_path / "local.csv", local), "csv", tmp_path / "local")
    import_log(tmp_path / "log.parquet", "parquet", tmp_path / "data", ImportOptions(timezone="Europe/Berlin"))
    assert Dataset.open(tmp_path / "data").fingerprint == Dataset.open(tmp_path / "local").fingerprint
    for zone, words in ((None, "carries a time zone"), ("as-written", "--timezone as-written does not apply")):
        with pytest.raises(EdgebError, match=words) as caught:
            import_log(tmp_path / "log.parquet", "parquet", tmp_path / "more", ImportOptions(timezone=zone))
        assert "--timezone" in caught.value.hint
    columns["timestamp"] = columns["timestamp"].cast(pa.timestamp(unit))
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    with pytest.raises(EdgebError, match="no time zone for --timezone to convert"):
        import_log(tmp_path / "log.parquet", "parquet", tmp_path / "more", ImportOptions(timezone="Europe/Berlin"))


def test_a_time_of_another_kind_is_named_with_its_line(tmp_path, make_rows, write_csv):
    rows = [(u, f"{t}Z", p, b) for u, t, p, b in make_rows(users=3)]
    rows[6] = (rows[6][0], rows[6][1][:-1], *rows[6][2:])
    with pytest.raises(EdgebError, match=r"log\.csv:8: .* has no offset"):
        import_log(
            write_csv(tmp_path / "log.csv", rows), "csv", tmp_path / "data", ImportOptions(timezone="Europe/Berlin")
        )


def test_a_unit_that_is_too_small_is_noted(tmp_path, make_rows, write_csv):
    _, rows = converted(make_rows(users=3), lambda t: str(int(t.timestamp())))
    log = write_csv(tmp_path / "log.csv", rows)
    info = import_log(
        log, "csv", tmp_path / "data", ImportOptions(timezone="utc", time_unit="ms", min_events=2)
    ).to_dict()
    assert any("check --time-unit" in line for line in info["warnings"])


def test_clocks_are_for_generic_logs(tmp_path):
    with pytest.raises(EdgebError, match="do not apply"):
        import_log(tmp_path, "app-usage", tmp_path / "data", ImportOptions(timezone="utc"))
