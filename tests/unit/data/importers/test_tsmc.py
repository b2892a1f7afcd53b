"""The TSMC2014 layout: local time, cells, encodings; and the real log where it is present."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections import Counter
from datetime import datetime, timedelta

import pytest

from edge_behavior.data.dataset import SPLITS, Dataset
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ColumnMap, ImportOptions
from edge_behavior.data.simulator.place_names import letters, width_for
from edge_behavior.errors import EdgebError

UTC = "%a %b %d %H:%M:%S +0000 %Y"


def checkins(users: int = 3, events: int = 21) -> list[list[str]]:
    rows = []
    for user in range(users):
        for i in range(events):
            time = datetime(2012, 4, 30, 22) + timedelta(hours=7 * i, seconds=user)
            label = ("Café", "Park", 'Athletic "&" Sport')[(i + user) % 3]
            lat, lon = 40.5 + 0.011 * i, -74.2 + 0.047 * (i % 7)
            rows.append([str(user), f"v{i}", "-", label, f"{lat:.6f}", f"{lon:.6f}", "-240", time.strftime(UTC)])
    return rows


def text(rows: list[list[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252"])
def test_reads_labels_local_times_and_cells(tmp_path, encoding):
    rows = checkins()
    log = tmp_path / "log.txt.gz"
    log.write_bytes(gzip.compress(text(rows).encode(encoding)))
    info = import_log(log, "tsmc2014", tmp_path / "data", ImportOptions(cell_degrees=0.03)).to_dict()
    dataset = Dataset.open(tmp_path / "data")
    assert sorted(dataset.candidates.labels) == ['Athletic "&" Sport', "Café", "Park"]
    table = dataset.events("train")
    events = [table.event(i) for i in range(21)]
    mine = [row for row in rows if int(row[0]) == int(table.users[0])]
    for event, row in zip(events, mine, strict=True):
        assert event.time == datetime.strptime(row[7], UTC) - timedelta(hours=4)
        assert event.behavior == row[3]
        north, east = int((float(row[4]) - 40.5) / 0.03), int((float(row[5]) + 74.2) / 0.03)
        assert event.place == chr(65 + north) + chr(65 + east)
    assert info["place"]["origin"] == {"latitude": 40.5, "longitude": -74.2}
    assert info["place"]["cell_degrees"] == 0.03


def test_letters_by_hand():
    assert letters(3, 1) + letters(10, 1) == "DK"
    assert [letters(n, 2) for n in (0, 25, 26, 675)] == ["AA", "AZ", "BA", "ZZ"]
    assert [width_for(n) for n in (1, 26, 27, 676, 677)] == [1, 1, 2, 2, 3]


def test_small_cells_need_more_letters(tmp_path):
    (tmp_path / "log.txt").write_text(text(checkins()))
    info = import_log(tmp_path / "log.txt", "tsmc2014", tmp_path / "data", ImportOptions(cell_degrees=0.001)).to_dict()
    assert (info["place"]["rows"], info["place"]["row_letters"]) == (220, 2)
    assert all(len(p) == 4 and p.isupper() for p in Dataset.open(tmp_path / "data").places)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (7, "2012-04-08T18:20:29", "log.txt:5: '2012-04-08T18:20:29 -240' is not a UTC time"),
        (6, "east", "log.txt:5: "),
        (
            6,
            "900",
            "log.txt:5: 'Wed May 02 02:00:00 +0000 2012 900' is not a UTC time and an offset of at most 14 hours",
        ),
        (3, "NULL", "log.txt:5: behavior 'NULL' reads as a missing value"),
        (0, "None", "log.txt:5: the user 'None' reads as a missing value"),
        (4, "north", "log.txt:5: columns 5 and 6 are not a latitude and longitude"),
        (5, "181", "log.txt:5: columns 5 and 6 are not a latitude and longitude"),
        (4, "nan", "log.txt:5: columns 5 and 6 are not a latitude and longitude"),
        (0, "", "log.txt:5: the user is empty"),
        (3, "", "log.txt:5: a behavior label is empty"),
        (3, "park", "log.txt:5: behavior 'park' differs from 'Park'"),
        (7, "a\tb", "log.txt:5: 9 fields where 8 are expected"),
    ],
)
def test_bad_rows_are_named(tmp_path, column, value, message):
    rows = checkins()
    rows[4][column] = value
    (tmp_path / "log.txt").write_text(text(rows))
    with pytest.raises(EdgebError) as caught:
        import_log(tmp_path / "log.txt", "tsmc2014", tmp_path / "data")
    assert message in caught.value.message
    assert not (tmp_path / "data").exists()


def test_another_layout_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,timestamp,place,behavior\n")
    with pytest.raises(EdgebError, match="1 tab-separated columns where TSMC2014 has 8"):
        import_log(tmp_path / "log.csv", "tsmc2014", tmp_path / "data")


HEADER = [
    "userId",
    "venueId",
    "venueCategoryId",
    "venueCategory",
    "latitude",
    "longitude",
    "timezoneOffset",
    "utcTimestamp",
]


@pytest.mark.parametrize(
    ("delimiter", "order"), [(",", range(8)), (",", [7, 3, 0, 4, 5, 6]), ("\t", range(8)), (";", [6, 5, 4, 3, 2, 0, 7])]
)
def test_copies_with_a_header_are_read_by_it(tmp_path, delimiter, order):
    rows = checkins()
    (tmp_path / "log.txt").write_text(text(rows))
    with (tmp_path / "copy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([row[i] for i in order] for row in [HEADER, *rows])
    import_log(tmp_path / "log.txt", "tsmc2014", tmp_path / "plain")
    import_log(tmp_path / "copy.csv", "tsmc2014", tmp_path / "copy")
    assert Dataset.open(tmp_path / "copy").fingerprint == Dataset.open(tmp_path / "plain").fingerprint


def test_a_header_that_lacks_a_column_is_named(tmp_path):
    (tmp_path / "log.csv").write_text(",".join(HEADER[:-1]) + "\n")
    with pytest.raises(EdgebError, match="as a header it lacks UTC time"):
        import_log(tmp_path / "log.csv", "tsmc2014", tmp_path / "data")
    (tmp_path / "log.csv").write_text(",".join(HEADER) + "\n")
    with pytest.raises(EdgebError, match="has no rows"):
        import_log(tmp_path / "log.csv", "tsmc2014", tmp_path / "data")


def test_the_copy_as_a_generic_log_points_to_its_format(tmp_path):
    with (tmp_path / "log.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *checkins()])
    columns = ColumnMap("userId", "utcTimestamp", "venueId", "venueCategory")
    with pytest.raises(EdgebError, match="is not a time") as caught:
        import_log(tmp_path / "log.csv", "csv", tmp_path / "data", ImportOptions(columns=columns))
    assert "--format tsmc2014" in caught.value.hint


def changed_label(rows, label):
    for row in rows[4::3]:
        row[3] = label
    return text(rows)


def test_windows_1252_quotes_are_what_they_look_like(tmp_path):
    (tmp_path / "log.txt").write_bytes(changed_label(checkins(), "Joe’s Café").encode("cp1252"))
    info = import_log(tmp_path / "log.txt", "tsmc2014", tmp_path / "data").to_dict()
    assert "Joe’s Café" in info["candidates"]["labels"]
    assert info["source"]["files"][0]["sha256"] == hashlib.sha256((tmp_path / "log.txt").read_bytes()).hexdigest()


def test_utf8_with_one_bad_byte_is_not_read_as_something_else(tmp_path):
    content = text(checkins()).encode()  # holds Café as UTF-8
    where = content.index(b"Park")
    (tmp_path / "log.txt").write_bytes(content[:where] + b"\x92" + content[where:])
    line = content[:where].count(b"\n") + 1
    with pytest.raises(EdgebError, match=rf"log\.txt:{line}: byte \d+ of the line, 0x92, is not UTF-8") as caught:
        import_log(tmp_path / "log.txt", "tsmc2014", tmp_path / "data")
    assert "the other lines are UTF-8" in caught.value.hint


def test_a_byte_that_no_encoding_has_is_named(tmp_path):
    (tmp_path / "log.txt").write_bytes(text(checkins()).encode("cp1252").replace(b"Park", b"P\x81rk", 1))
    with pytest.raises(EdgebError, match=r"log\.txt:\d+: byte \d+ of the line, 0x81"):
        import_log(tmp_path / "log.txt", "tsmc2014", tmp_path / "data")


def test_the_real_log(tmp_path, shared):
    log = shared / "data" / "foursquare-nyc" / "dataset_TSMC2014_NYC.txt.gz"
    info = import_log(log, "tsmc2014", tmp_path / "data").to_dict()
    with gzip.open(log, "rt", encoding="utf-8", newline="") as file:
        rows = [line.rstrip("\r\n").split("\t") for line in file]
    assert info["rows"]["read"] == len(rows) == 93_191
    assert info["users"]["read"] == len({row[0] for row in rows}) == 861
    # One event per user, local second, cell and category, as the importer defines a duplicate.
    south, west = min(float(row[4]) for row in rows), min(float(row[5]) for row in rows)
    cells = [(int((float(r[4]) - south) / 0.03), int((float(r[5]) - west) / 0.03)) for r in rows]
    unique = {(row[0], row[7], row[6], row[3], cell) for row, cell in zip(rows, cells, strict=True)}
    assert info["rows"]["dropped"]["duplicate"] == len(rows) - len(unique)
    sizes = Counter(user for user, *_ in unique)
    assert info["users"]["kept"] == sum(n >= 21 for n in sizes.values())
    assert info["rows"]["dropped"]["short_user"] == sum(n for n in sizes.values() if n < 21)
    dataset = Dataset.open(tmp_path / "data")
    assert len({row[3] for row in rows}) == len(dataset.candidates) == 199
    assert sum(len(dataset.events(split)) for split in SPLITS) == sum(n for n in sizes.values() if n >= 21)
    assert info["place"]["count"] <= len(set(cells))


def test_a_damaged_archive_is_named(tmp_path):
    log = tmp_path / "log.txt.gz"
    log.write_bytes(gzip.compress(text(checkins()).encode())[:-12])
    with pytest.raises(EdgebError, match="gzip"):
        import_log(log, "tsmc2014", tmp_path / "data")
