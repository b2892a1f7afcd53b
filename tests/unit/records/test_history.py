"""A history file is read strictly, naming file and line, in the order of the file."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import MAX_LABEL_CHARS, BehaviorEvent, clean_label, clean_place
from edge_behavior.core.times.clock import make_clock
from edge_behavior.errors import EdgebError
from edge_behavior.records.history import read_history, write_history
from edge_behavior.records.missing import is_missing

LABELS = st.text(st.characters(exclude_categories=["Cc", "Cf", "Zl", "Zp", "Cs"]), min_size=1, max_size=MAX_LABEL_CHARS)


def cleaned_label(text: str) -> str | None:
    try:
        return clean_label(text)
    except EdgebError:
        return None


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


GOOD = "timestamp,place,behavior\n2012-05-01T18:00,home,Video\n2012-05-01T19:00,work,Mail\n"
EVENTS = [
    BehaviorEvent("home", datetime(2012, 5, 1, 18), "Video"),
    BehaviorEvent("work", datetime(2012, 5, 1, 19), "Mail"),
]


class TestReadHistory:
    def test_csv(self, tmp_path):
        assert read_history(write(tmp_path, "h.csv", GOOD)).events == EVENTS

    def test_csv_as_spreadsheets_write_it(self, tmp_path):
        text = "\ufeffuser_id,behavior,place,timestamp,note\r\nu1,Video,home,2012-05-01T18:00,\r\n"
        text += 'u1,Mail,"wo,rk",2012-05-01T19:00,"two\r\nlines"\r\n'
        read = read_history(write(tmp_path, "h.csv", text)).events
        assert [e.behavior for e in read] == ["Video", "Mail"]
        assert read[1].place == "wo rk"

    def test_jsonl(self, tmp_path):
        rows = [{"timestamp": e.time.isoformat(), "place": e.place, "behavior": e.behavior} for e in EVENTS]
        text = "\n\n".join(json.dumps(row) for row in rows)
        assert read_history(write(tmp_path, "h.jsonl", text)).events == EVENTS
        assert read_history(write(tmp_path, "h.csv", text)).events == EVENTS

    def test_a_json_list(self, tmp_path):
        rows = [{"timestamp": e.time.isoformat(), "place": e.place, "behavior": e.behavior} for e in EVENTS]
        assert read_history(write(tmp_path, "h.csv", json.dumps(rows, indent=2))).events == EVENTS

    def test_a_header_alone_is_a_history(self, tmp_path):
        found = read_history(write(tmp_path, "h.csv", "timestamp,place,behavior\n"))
        assert found.events == []
        assert "has no events" in found.notes()[0]
        assert found.known(CandidateSet.of(["a", "b"])) == ([], [])

    def test_equal_times_are_in_order(self, tmp_path):
        text = "timestamp,place,behavior\n" + "2012-05-01T18:00,home,Video\n" * 3
        assert len(read_history(write(tmp_path, "h.csv", text)).events) == 3

    def test_places_and_labels_are_cleaned(self, tmp_path):
        text = 'timestamp,place,behavior\n2012-05-01T18:00,"ho\nme) (x","  Watch   video "\n'
        event = read_history(write(tmp_path, "h.csv", text)).events[0]
        assert (event.place, event.behavior) == ("ho me x", "Watch video")

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("h.csv", GOOD.replace("place", "where"), r"h\.csv: no column 'place' \(valid: "),
            ("h.csv", GOOD + "2012-05-01T20:00,home\n", r"h\.csv:4: 2 fields where 3 are expected"),
            ("h.csv", GOOD + "noon,home,Video\n", r"h\.csv:4: 'noon' is not a time"),
            ("h.csv", GOOD + "2012-05-01T20:00Z,home,Video\n", r"h\.csv:4: .*time"),
            ("h.csv", GOOD + "2012-05-01T20:00,home,Video,x\n", r"h\.csv:4: 4 fields where 3 are expected"),
            ("h.csv", "timestamp,where,behavior\n", r"h\.csv: no column 'place' \(valid: behavior, timestamp, where"),
            ("h.csv", "", r"h\.csv is empty"),
            ("h.csv", "\n \n", r"h\.csv is empty"),
            ("h.jsonl", "[]", r"h\.jsonl holds an empty list"),
            ("h.csv", GOOD + "2012-05-01T20:00,home,  \n", r"h\.csv:4: a behavior label is empty"),
            ("h.csv", GOOD + '2012-05-01T20:00,home,"a\nb"\n', r"h\.csv:4: .*U\+000A"),
            (
                "h.csv",
                "user_id,timestamp,place,behavior\na,2012-05-01T18:00,x,y\nb,2012-05-01T18:00,x,y\n",
                r"h\.csv:3: a second user, 'b', after 'a'",
            ),
            (
                "h.jsonl",
                '{"timestamp": "2012-05-01T18:00", "place": "x", "behavior": "y"}\n{oops\n',
                r"jsonl:2: not JSON",
            ),
            ("h.jsonl", "[1]\n", r"h\.jsonl:1: not a JSON object"),
            (
                "h.jsonl",
                '{"timestamp": true, "place": "x", "behavior": "y"}\n',
                r"jsonl:1: field 'timestamp' holds true",
            ),
            ("h.jsonl", '\n\n{"timestamp": "2012-05-01T18:00", "place": "x"}\n', r"jsonl: no column 'behavior'"),
            (
                "h.jsonl",
                '{"timestamp": "2012-05-01T18:00", "place": "x", "behavior": "y"}\n{"timestamp": "2012-05-01T18:00"}\n',
                r"jsonl:2: a behavior label is empty",
            ),
            ("h.csv", b"timestamp,place,behavior\n\xff\xfe\n", r"h\.csv:2: byte 1 of the line, 0xFF"),
        ],
    )
    def test_errors_name_file_and_line(self, tmp_path, name, text, message):
        with pytest.raises(EdgebError, match=message) as caught:
            read_history(write(tmp_path, name, text))
        assert caught.value.hint
        assert "\n" not in str(caught.value)

    def test_unreadable(self, tmp_path):
        with pytest.raises(EdgebError, match=r"cannot read .*absent\.csv: No such file"):
            read_history(tmp_path / "absent.csv")
        with pytest.raises(EdgebError, match="cannot read"):
            read_history(tmp_path)


class TestClocks:
    def test_file_order_is_the_order(self, tmp_path):
        text = "timestamp,place,behavior\n2024-10-27T02:50,home,Video\n2024-10-27T02:05,home,Mail\n"
        found = read_history(write(tmp_path, "h.csv", text))
        assert [e.behavior for e in found.events] == ["Video", "Mail"]
        assert found.back == 1
        assert "1 event is earlier than the one before it" in found.notes()[0]

    def test_seconds_count_for_nothing(self, tmp_path):
        text = "timestamp,place,behavior\n2024-10-27T02:50:30,home,Video\n2024-10-27T02:50,home,Mail\n"
        assert read_history(write(tmp_path, "h.csv", text)).notes() == []

    def test_newest_first(self, tmp_path):
        rows = "".join(f"2024-10-{d}T02:50,home,Video\n" for d in range(27, 10, -1))
        with pytest.raises(EdgebError, match=r"h\.csv:2: the newest event comes first"):
            read_history(write(tmp_path, "h.csv", "timestamp,place,behavior\n" + rows))

    def test_two_logs_behind_each_other(self, tmp_path):
        rows = GOOD + GOOD.partition("\n")[2].replace("2012-05-01", "2012-04-01")
        with pytest.raises(EdgebError, match=r"h\.csv:4: 2012-04-01T18:00 is 30 days before the event above it"):
            read_history(write(tmp_path, "h.csv", rows))


class TestUnknown:
    CANDIDATES = CandidateSet.of(["Video", "Café 24"])

    def history(self, folder: Path, *labels: str):
        rows = [{"timestamp": "2024-03-18T20:05", "place": "x", "behavior": label} for label in labels]
        return read_history(write(folder, "h.jsonl", "\n".join(json.dumps(row) for row in rows)))

    def test_skipped_and_named(self, tmp_path):
        found = self.history(tmp_path, "Vidio", "Video", "Cafe\u0301\u00a024", "New", "Video")
        events, skipped = found.known(self.CANDIDATES)
        assert [e.behavior for e in events] == ["Video", "Café 24", "Video"]
        assert [(s.line, s.behavior) for s in skipped] == [(1, "Vidio"), (4, "New")]
        note = f"{found.path}: 2 events were skipped, not in the candidate set: 'Vidio' (line 1), 'New' (line 4)"
        assert found.notes(skipped) == [note]

    def test_many_are_not_all_named(self, tmp_path):
        found = self.history(tmp_path, "Video", *(f"x{i}" for i in range(9)))
        note = found.notes(found.known(self.CANDIDATES)[1])[0]
        assert "'x4' (line 6) and 4 more" in note
        assert "x5" not in note

    def test_refused(self, tmp_path):
        found = self.history(tmp_path, "Video", "Vidio")
        with pytest.raises(EdgebError, match=r"h\.jsonl:2: 'Vidio' is not in the candidate set") as caught:
            found.known(self.CANDIDATES, "refuse")
        assert caught.value.hint == "did you mean 'Video'?"
        assert len(self.history(tmp_path, "Video").known(self.CANDIDATES, "refuse")[0]) == 1
        with pytest.raises(EdgebError, match="--unknown is 'skp'"):
            found.known(self.CANDIDATES, "skp")

    def test_none_left(self, tmp_path):
        with pytest.raises(EdgebError, match=r"no event's behavior is in the candidate set: 'Mail' \(line 1\)"):
            self.history(tmp_path, "Mail").known(self.CANDIDATES)


class TestUsers:
    TEXT = "user_id,timestamp,place,behavior\na,2024-03-18T20:05,x,A\nb,2024-03-17T20:05,x,B\na,2024-03-18T21:05,x,C\n"

    def test_one_is_picked(self, tmp_path):
        found = read_history(write(tmp_path, "h.csv", self.TEXT), "a")
        assert [e.behavior for e in found.events] == ["A", "C"]
        assert found.lines == [2, 4]
        assert found.back == 0

    def test_nobody(self, tmp_path):
        with pytest.raises(EdgebError, match=r"no event of user 'c'") as caught:
            read_history(write(tmp_path, "h.csv", self.TEXT), "c")
        assert "valid: a, b" in caught.value.hint


def test_a_history_without_places(tmp_path):
    path = write(tmp_path, "h.csv", "timestamp,behavior\n2024-03-18T20:05,A\n")
    with pytest.raises(EdgebError, match="no column 'place'"):
        read_history(path)
    found = read_history(path, places=False)
    assert found.events == [BehaviorEvent("unknown", datetime(2024, 3, 18, 20, 5), "A")]


def test_times_with_an_offset_or_since_1970(tmp_path):
    """What `data import --timezone` makes of the same texts."""
    wanted = [BehaviorEvent("home", datetime(2024, 3, 18, hour, 5), "A") for hour in (20, 21)]
    rows = {"ms": (1710788700000, 1710792300000), None: ("2024-03-18T19:05Z", "2024-03-18T21:05:30+01:00")}
    for unit, times in rows.items():
        text = "".join(json.dumps({"timestamp": t, "place": "home", "behavior": "A"}) + "\n" for t in times)
        path = write(tmp_path, "h.jsonl", text)
        with pytest.raises(EdgebError, match=r"h\.jsonl:1"):
            read_history(path)
        found = read_history(path, clock=make_clock("Europe/Berlin", unit)).events
        assert [replace(e, time=e.time.replace(second=0)) for e in found] == wanted


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            # A place called "nil" reads as none.
            st.text(max_size=30).map(clean_place).filter(lambda place: not is_missing(place)),
            st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),
            LABELS.map(cleaned_label).filter(bool),
        ),
        max_size=8,
    )
)
def test_what_is_written_is_what_is_read(rows):
    events = [
        BehaviorEvent(place, time.replace(second=0, microsecond=0), label)
        for place, time, label in sorted(rows, key=lambda row: row[1])
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_history(Path(folder) / "h.csv", events)
        assert read_history(Path(folder) / "h.csv").events == events
