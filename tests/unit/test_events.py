"""Text from a log is cleaned once, and a history file is read strictly, naming file and line."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_behavior.errors import EdgebError
from edge_behavior.events import (
    MAX_LABEL_CHARS,
    MAX_PLACE_CHARS,
    BehaviorEvent,
    clean_label,
    clean_place,
    parse_time,
    read_history,
    write_history,
)

LABELS = st.text(st.characters(exclude_categories=["Cc", "Cf", "Zl", "Zp", "Cs"]), min_size=1, max_size=MAX_LABEL_CHARS)


def cleaned_label(text: str) -> str | None:
    try:
        return clean_label(text)
    except EdgebError:
        return None


class TestPlace:
    @pytest.mark.parametrize(
        ("raw", "clean"),
        [
            ("home", "home"),
            ("  Starbucks  #3 ", "Starbucks 3"),
            ('Joe\'s (bar), "east"', "Joe s bar east"),
            ("a\nb\r\tc\x00d", "a b c d"),
            ("40.75/-73.98", "40.75/-73.98"),
            ("A&B_c+d-e.f", "A&B_c+d-e.f"),
            ("{candidates}", "candidates"),
            ("<|im_end|>", "im_end"),
            ("Cafe\u0301", "Café"),
            ("東京駅", "東京駅"),
            ("zero\u200bwidth", "zero width"),
            ("right\u202eleft", "right left"),
            ("\u2028", "unknown"),
            ("", "unknown"),
            ("()[],'\"", "unknown"),
            ("💡", "unknown"),
        ],
    )
    def test_examples(self, raw, clean):
        assert clean_place(raw) == clean

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=80))
    @example("a" * 47 + " b")
    @example("=\u0338" * 30)
    @example("\u0958" * 48)
    @example("-\u0338" * 30)
    def test_any_text_becomes_a_plain_word_or_two(self, text):
        place = clean_place(text)
        assert 1 <= len(place) <= MAX_PLACE_CHARS
        assert place == " ".join(place.split())
        assert len(place.splitlines()) == 1
        assert not set(place) & set("()[]{}<>,;:\"'`|\n\r\t\\")
        assert all(c in "-_.&/+ " or unicodedata.category(c)[0] in "LMN" for c in place)
        assert clean_place(place) == place

    @settings(max_examples=50, deadline=None)
    @given(st.text("abcXYZ019-_.&/+", min_size=1, max_size=MAX_PLACE_CHARS))
    def test_plain_names_are_kept(self, text):
        assert clean_place(text) == text

    def test_a_long_name_is_cut_without_a_space_at_its_end(self):
        assert clean_place("x" * 200) == "x" * MAX_PLACE_CHARS
        assert clean_place("x" * 47 + " yyy") == "x" * 47


class TestLabel:
    @pytest.mark.parametrize(
        ("raw", "clean"),
        [
            ("Watch video", "Watch video"),
            ("  Watch   video ", "Watch video"),
            ("\tWatch video\n", "Watch video"),
            ("Cafe\u0301", "Café"),
            ("Gym / Fitness Center (24h), {x}", "Gym / Fitness Center (24h), {x}"),
            ("買い物", "買い物"),
            ("x" * 100, "x" * 100),
        ],
    )
    def test_examples(self, raw, clean):
        assert clean_label(raw) == clean

    @pytest.mark.parametrize("raw", ["", "   ", "\n", "\u00a0"])
    def test_empty(self, raw):
        with pytest.raises(EdgebError, match="empty"):
            clean_label(raw)

    @pytest.mark.parametrize(
        ("raw", "code"),
        [("a\nb", "000A"), ("a\tb", "0009"), ("a\x00b", "0000"), ("a\u200bb", "200B"), ("a\u2028b", "2028")],
    )
    def test_control_characters_are_named(self, raw, code):
        with pytest.raises(EdgebError, match=rf"control character U\+{code}") as caught:
            clean_label(raw)
        assert "\n" not in str(caught.value)

    def test_a_lone_surrogate_is_refused(self):
        with pytest.raises(EdgebError, match="D800"):
            clean_label("a\ud800")

    def test_too_long(self):
        with pytest.raises(EdgebError, match="has 101 characters"):
            clean_label("x" * 101)

    @settings(max_examples=150, deadline=None)
    @given(st.text(max_size=120))
    def test_a_clean_label_is_one_line_and_stays_as_it_is(self, text):
        label = cleaned_label(text)
        if label is None:
            return
        assert 0 < len(label) <= MAX_LABEL_CHARS
        assert label == label.strip()
        assert "  " not in label
        assert len(label.splitlines()) == 1
        assert clean_label(label) == label


class TestTime:
    def test_local_times(self):
        assert parse_time(" 2012-05-01T18:00 ", "x") == datetime(2012, 5, 1, 18)
        assert parse_time("2012-05-01 18:00:07", "x") == datetime(2012, 5, 1, 18, 0, 7)

    @pytest.mark.parametrize("text", ["", "yesterday", "18:00", "2012-13-01T00:00", "2012-05-01T25:00", "1335895200"])
    def test_not_a_time(self, text):
        with pytest.raises(EdgebError, match=r"log\.csv:7: .* is not a time") as caught:
            parse_time(text, "log.csv:7")
        assert "ISO 8601" in caught.value.hint

    def test_a_zone_is_refused_not_dropped(self):
        with pytest.raises(EdgebError, match="time zone"):
            parse_time("2012-05-01T18:00+02:00", "--at")


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
        assert read_history(write(tmp_path, "h.csv", GOOD)) == EVENTS

    def test_csv_as_spreadsheets_write_it(self, tmp_path):
        text = "\ufeffuser_id,behavior,place,timestamp,note\r\nu1,Video,home,2012-05-01T18:00,\r\n"
        text += 'u1,Mail,"wo,rk",2012-05-01T19:00,"two\r\nlines"\r\n'
        read = read_history(write(tmp_path, "h.csv", text))
        assert [e.behavior for e in read] == ["Video", "Mail"]
        assert read[1].place == "wo rk"

    def test_jsonl(self, tmp_path):
        rows = [{"timestamp": e.time.isoformat(), "place": e.place, "behavior": e.behavior} for e in EVENTS]
        text = "\n\n".join(json.dumps(row) for row in rows)
        assert read_history(write(tmp_path, "h.jsonl", text)) == EVENTS
        assert read_history(write(tmp_path, "h.ndjson", text)) == EVENTS

    @pytest.mark.parametrize("text", ["", "timestamp,place,behavior\n"])
    def test_no_events_is_a_history(self, tmp_path, text):
        assert read_history(write(tmp_path, "h.csv", text)) == []

    def test_equal_times_are_in_order(self, tmp_path):
        text = "timestamp,place,behavior\n" + "2012-05-01T18:00,home,Video\n" * 3
        assert len(read_history(write(tmp_path, "h.csv", text))) == 3

    def test_places_and_labels_are_cleaned(self, tmp_path):
        text = 'timestamp,place,behavior\n2012-05-01T18:00,"ho\nme) (x","  Watch   video "\n'
        event = read_history(write(tmp_path, "h.csv", text))[0]
        assert (event.place, event.behavior) == ("ho me x", "Watch video")

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("h.csv", GOOD.replace("place", "where"), r"h\.csv:2: no text field 'place'"),
            ("h.csv", GOOD + "2012-05-01T20:00,home\n", r"h\.csv:4: no text field 'behavior'"),
            ("h.csv", GOOD + "noon,home,Video\n", r"h\.csv:4: 'noon' is not a time"),
            ("h.csv", GOOD + "2012-05-01T20:00Z,home,Video\n", r"h\.csv:4: .*time"),
            ("h.csv", GOOD + "2012-05-01T17:59,home,Video\n", r"h\.csv:4: 2012-05-01T17:59:00 is before"),
            ("h.csv", GOOD + "2012-05-01T20:00,home,  \n", r"h\.csv:4: a behavior label is empty"),
            ("h.csv", GOOD + '2012-05-01T20:00,home,"a\nb"\n', r"h\.csv:5: .*U\+000A"),
            (
                "h.csv",
                "user_id,timestamp,place,behavior\na,2012-05-01T18:00,x,y\nb,2012-05-01T18:00,x,y\n",
                r"h\.csv:3: a second user_id",
            ),
            (
                "h.jsonl",
                '{"timestamp": "2012-05-01T18:00", "place": "x", "behavior": "y"}\n{oops\n',
                r"jsonl:2: not JSON",
            ),
            ("h.jsonl", "[1]\n", r"h\.jsonl:1: not a JSON object"),
            ("h.jsonl", '{"timestamp": 5, "place": "x", "behavior": "y"}\n', r"h\.jsonl:1: no text field 'timestamp'"),
            ("h.jsonl", '\n\n{"timestamp": "2012-05-01T18:00", "place": "x"}\n', r"jsonl:3: no text field 'behavior'"),
            ("h.csv", b"timestamp,place,behavior\n\xff\xfe\n", r"h\.csv is not UTF-8 text"),
        ],
    )
    def test_errors_name_file_and_line(self, tmp_path, name, text, message):
        with pytest.raises(EdgebError, match=message) as caught:
            read_history(write(tmp_path, name, text))
        assert caught.value.hint
        assert "\n" not in str(caught.value)

    def test_unreadable(self, tmp_path):
        with pytest.raises(EdgebError, match=r"cannot read history file .*absent\.csv: No such file"):
            read_history(tmp_path / "absent.csv")
        with pytest.raises(EdgebError, match="cannot read history file"):
            read_history(tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(max_size=30),
            st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),
            LABELS.map(cleaned_label).filter(bool),
        ),
        max_size=8,
    )
)
def test_what_is_written_is_what_is_read(rows):
    events = [
        BehaviorEvent(clean_place(place), time.replace(second=0, microsecond=0), label)
        for place, time, label in sorted(rows, key=lambda row: row[1])
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_history(Path(folder) / "h.csv", events)
        assert read_history(Path(folder) / "h.csv") == events


def test_without_places_no_column_is_looked_for(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("timestamp,behavior\n2024-05-01T18:00,Video\n")
    event = BehaviorEvent("unknown", datetime(2024, 5, 1, 18), "Video")
    assert read_history(path, places=False) == [event]
    with pytest.raises(EdgebError, match="'place'"):
        read_history(path)
    # One that is there is not read.
    path.write_text("timestamp,place,behavior\n2024-05-01T18:00,home,Video\n")
    assert read_history(path, places=False) == [event]
