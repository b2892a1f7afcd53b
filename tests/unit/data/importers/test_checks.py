"""Words for a missing value, values that are no text, one column in two roles, and what is odd but can be imported."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_behavior.core.events import clean_place
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.describe import describe, import_tables
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ColumnMap, ImportOptions
from edge_behavior.errors import EdgebError
from edge_behavior.records.missing import MISSING_WORDS, is_missing

HEADER = ("user_id", "timestamp", "place", "behavior")


def with_words(rows, words, column=3):
    """The rows with these words in a column of rows 5, 6, …."""
    changed = [list(row) for row in rows]
    for i, word in enumerate(words, 5):
        changed[i][column] = word
    return changed


@pytest.mark.parametrize("word", ["NULL", "na", "N/A", "NaN", "None", "nil", "undefined", "(null)", "<NA>", r"\N", "-"])
def test_words_for_missing_behaviors_are_refused_with_their_line(tmp_path, make_rows, write_csv, word):
    log = write_csv(tmp_path / "log.csv", with_words(make_rows(users=3, events=25), [word, "", f" {word} "]))
    with pytest.raises(EdgebError) as caught:
        import_log(log, "csv", tmp_path / "data")
    assert re.search(rf"log\.csv:7: behavior '{re.escape(word)}' reads as .*; 3 rows have none", caught.value.message)
    assert "--missing drop" in caught.value.hint
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("word", ["Unknown", "Other", "Nothing", "Nan's Kitchen", "0", "nullify", "N"])
def test_other_words_are_labels(word):
    assert not is_missing(word)


def test_every_word_is_known_in_any_case():
    assert all(is_missing(f" {change(word)}\t") for word in MISSING_WORDS for change in (str.upper, str.title, str))


def test_missing_behaviors_are_dropped_and_counted_on_request(tmp_path, make_rows, write_csv):
    rows = make_rows(users=3, events=30)
    log = write_csv(tmp_path / "log.csv", with_words(rows, ["NULL", "", "n/a"]))
    info = import_log(log, "csv", tmp_path / "data", ImportOptions(missing="drop")).to_dict()
    assert info["rows"] == {"read": 90, "dropped": {"missing": 3, "duplicate": 0, "short_user": 0}}
    assert not any(is_missing(label) for label in info["candidates"]["labels"])
    import_log(write_csv(tmp_path / "less.csv", rows[:5] + rows[8:]), "csv", tmp_path / "less")
    assert Dataset.open(tmp_path / "data").fingerprint == Dataset.open(tmp_path / "less").fingerprint


def test_missing_words_are_labels_where_that_is_asked_for(tmp_path, make_rows, write_csv):
    rows = make_rows(users=3, events=30)
    info = import_log(
        write_csv(tmp_path / "log.csv", with_words(rows, ["None"])),
        "csv",
        tmp_path / "data",
        ImportOptions(missing="keep"),
    ).to_dict()
    assert "None" in info["candidates"]["labels"]
    with pytest.raises(EdgebError, match=r"log\.csv:7: a behavior label is empty"):
        import_log(
            write_csv(tmp_path / "log.csv", with_words(rows, [""])),
            "csv",
            tmp_path / "more",
            ImportOptions(missing="keep"),
        )
    with pytest.raises(EdgebError, match="unknown --missing 'kepe'") as caught:
        import_log(tmp_path / "log.csv", "csv", tmp_path / "more", ImportOptions(missing="kepe"))
    assert "keep" in caught.value.hint


def test_missing_places_are_unknown_and_counted(tmp_path, make_rows, write_csv):
    log = write_csv(tmp_path / "log.csv", with_words(make_rows(users=3, events=30), ["NULL", "", "<na>"], column=2))
    info = import_log(log, "csv", tmp_path / "data").to_dict()
    dataset = Dataset.open(tmp_path / "data")
    assert info["place"]["missing"] == 3
    assert "unknown" in dataset.places
    assert not {"NULL", "na"} & set(dataset.places)
    assert describe(dataset).to_dict()["place"]["missing"] == 3
    assert "3" in rendered(import_tables(dataset.info)).split("rows without a place: unknown")[1].splitlines()[0]


def rendered(group) -> str:
    from io import StringIO

    from rich.console import Console

    stream = StringIO()
    Console(file=stream, width=200).print(group)
    return stream.getvalue()


@pytest.mark.parametrize("word", ["NULL", "nan", "-", "", "undefined"])
def test_a_missing_user_is_refused_whatever_the_word(tmp_path, make_rows, write_csv, word):
    log = write_csv(tmp_path / "log.csv", with_words(make_rows(users=3, events=30), [word, word], column=0))
    with pytest.raises(EdgebError, match=r"log\.csv:7: the user_id .*; 2 rows have no user"):
        import_log(log, "csv", tmp_path / "data", ImportOptions(missing="drop"))


def test_a_user_written_as_7_and_as_7_0_would_be_two(tmp_path, make_rows, write_csv):
    rows = [(user[1:].lstrip("0") or "0", *rest) for user, *rest in make_rows(users=3, events=30)]
    rows[4] = (f"{rows[4][0]}.0", *rows[4][1:])
    with pytest.raises(EdgebError, match=r"log\.csv:6: user_id '\d\.0' is the same number as user_id '\d'"):
        import_log(write_csv(tmp_path / "log.csv", rows), "csv", tmp_path / "data")
    import_log(write_csv(tmp_path / "log.csv", [(f"{u.split('.')[0]}.0", *r) for u, *r in rows]), "csv", tmp_path / "d")


def json_log(path, rows, **change):
    names = ("user_id", "timestamp", "place", "behavior")
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    for i, (field, value) in enumerate(change.items(), 4):
        objects[i][field] = value
    path.write_text("\n".join(json.dumps(o) for o in objects))
    return path


@pytest.mark.parametrize(
    ("value", "words"),
    [({"app": "Chat"}, "an object"), (["Chat"], "a list"), (True, "true"), ({}, "an object")],
)
@pytest.mark.parametrize("field", ["user_id", "place", "behavior", "timestamp"])
def test_json_values_that_are_no_text_are_refused(tmp_path, make_rows, value, words, field):
    log = json_log(tmp_path / "log.jsonl", make_rows(users=3), **{field: value})
    with pytest.raises(EdgebError, match=rf"log\.jsonl:5: field '{field}' holds {words}, not text"):
        import_log(log, "jsonl", tmp_path / "data")


def test_text_that_looks_like_json_is_text(tmp_path, make_rows):
    log = json_log(tmp_path / "log.jsonl", make_rows(users=3), behavior='{"app": 1}', place="[true]")
    assert '{"app": 1}' in import_log(log, "jsonl", tmp_path / "data").to_dict()["candidates"]["labels"]


def test_whole_json_numbers_are_one_label_and_one_user(tmp_path, make_rows):
    objects = [
        {"user_id": (u, float(u))[i % 2], "timestamp": time, "place": 1.5, "behavior": (7, 7.0, "7", 8.25)[i % 4]}
        for i, (u, time) in enumerate((int(user[1:]), time) for user, time, _, _ in make_rows(users=3))
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, objects)))
    info = import_log(tmp_path / "log.jsonl", "jsonl", tmp_path / "data").to_dict()
    assert sorted(info["candidates"]["labels"]) == ["7", "8.25"]
    assert info["users"]["kept"] == 3
    assert Dataset.open(tmp_path / "data").places == ["1.5"]


def test_a_field_of_a_nested_object_can_be_named(tmp_path, make_rows, write_csv):
    rows = make_rows(users=3)
    objects = [
        {"user_id": u, "timestamp": t, "where": {"a b": {"name": p}}, "data": {"app": b}, "x.y": 1}
        for u, t, p, b in rows
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, objects)))
    columns = ColumnMap(place="where.a b.name", behavior="data.app")
    import_log(tmp_path / "log.jsonl", "jsonl", tmp_path / "data", ImportOptions(columns=columns))
    import_log(write_csv(tmp_path / "log.csv", rows), "csv", tmp_path / "plain")
    assert Dataset.open(tmp_path / "data").fingerprint == Dataset.open(tmp_path / "plain").fingerprint
    columns = ColumnMap(place="where.a b.name", behavior="data")
    with pytest.raises(EdgebError) as caught:
        import_log(tmp_path / "log.jsonl", "jsonl", tmp_path / "more", ImportOptions(columns=columns))
    assert "like data.app" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([{"a": 1}] * 3), "STRUCT"),
        (pa.array([[1]] * 3), "BIGINT"),
        (pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int32())), "MAP"),
        (pa.array([b"\xff"] * 3), "BLOB"),
        (pa.array([1.0] * 3), "DOUBLE"),
        (pa.array([True] * 3), "BOOLEAN"),
        (pa.array([None] * 3), "NULL"),
    ],
)
@pytest.mark.parametrize("column", ["user_id", "behavior"])
def test_parquet_columns_that_are_no_text_are_refused(tmp_path, values, kind, column):
    table = {"user_id": ["u"] * 3, "timestamp": ["2024-03-01"] * 3, "place": ["x"] * 3, "behavior": ["A"] * 3}
    pq.write_table(pa.table({**table, column: values}), tmp_path / "log.parquet")
    with pytest.raises(EdgebError, match=f"column '{column}' holds .*{kind}"):
        import_log(tmp_path / "log.parquet", "parquet", tmp_path / "data")


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ({"place": "app", "behavior": "app"}, "both the place and the behavior"),
        ({"user": "app", "behavior": "app"}, "both the user and the behavior"),
        ({"user": "place"}, "both the user and the place"),
        ({"time": "behavior"}, "both the time and the behavior"),
    ],
)
def test_one_column_has_one_role(tmp_path, roles, words):
    (tmp_path / "log.csv").write_text("never read\n")
    with pytest.raises(EdgebError, match=words) as caught:
        import_log(tmp_path / "log.csv", "csv", tmp_path / "data", ImportOptions(columns=ColumnMap(**roles)))
    assert ("--no-place" in caught.value.hint) == ("place" in words)


def test_a_place_that_is_the_answer_in_another_column_is_noted(tmp_path, make_rows, write_csv):
    rows = make_rows(users=3)
    told = [(u, t, b, b) for u, t, _, b in rows]
    [warning] = import_log(write_csv(tmp_path / "told.csv", told), "csv", tmp_path / "told").to_dict()["warnings"]
    assert "gives the answer away" in warning
    assert import_log(write_csv(tmp_path / "log.csv", rows), "csv", tmp_path / "data").to_dict()["warnings"] == []
    once = [(u, t, f"p{i}", b) for i, (u, t, _, b) in enumerate(rows)]
    assert import_log(write_csv(tmp_path / "once.csv", once), "csv", tmp_path / "once").to_dict()["warnings"] == []


def test_places_that_become_one_for_their_length_are_noted(tmp_path, make_rows, write_csv):
    long = "Central Station " * 3
    assert clean_place(long + "north hall") == clean_place(long + "south hall")
    rows = [(u, t, long + p, b) for u, t, p, b in make_rows(users=3)]
    [warning] = import_log(write_csv(tmp_path / "log.csv", rows), "csv", tmp_path / "data").to_dict()["warnings"]
    said = f"place names are cut to 48 characters, which makes different places one, like '{long.strip()}' (1 in all)"
    assert warning.startswith(said)
    one = [(u, t, long + "hall" if p == rows[0][2] else p, b) for u, t, p, b in make_rows(users=3)]
    assert import_log(write_csv(tmp_path / "one.csv", one), "csv", tmp_path / "one").to_dict()["warnings"] == []


def test_a_log_without_hours_is_noted_with_its_duplicates(tmp_path, make_rows, write_csv):
    rows = [(u, t[:10], p, b) for u, t, p, b in make_rows(users=3, events=60)]
    log = write_csv(tmp_path / "log.csv", rows)
    info = import_log(log, "csv", tmp_path / "data", ImportOptions(min_events=2)).to_dict()
    lost = len(rows) - len(set(rows))
    assert lost > 0
    assert info["warnings"] == [
        "no time has an hour, so the model will learn nothing about the time of day; "
        f"{lost} rows were exact duplicates, events of the same day among them"
    ]
    assert describe(Dataset.open(tmp_path / "data")).to_dict()["warnings"] == info["warnings"]
    assert "warning: no time has an hour" in rendered(import_tables(Dataset.open(tmp_path / "data").info))
    with pytest.raises(EdgebError, match=f"{lost} rows were exact duplicates; no time has an hour"):
        import_log(log, "csv", tmp_path / "none", ImportOptions(min_events=1000))


@pytest.mark.parametrize("invisible", ["\u200b", "\ufeff \u2060", "\u00a0", "\u200bNULL\u200b"])
@pytest.mark.parametrize("column", ["user_id", "household"])
def test_what_nobody_sees_is_no_user_and_no_group(tmp_path, make_rows, write_csv, column, invisible):
    rows = [[*row, f"home {row[0]}"] for row in make_rows(users=3)]
    rows[5][0 if column == "user_id" else 4] = invisible
    log = write_csv(tmp_path / "log.csv", rows, (*HEADER, "household"))
    with pytest.raises(EdgebError, match=rf"log\.csv:7: the {column} .*(missing value|is empty)") as caught:
        import_log(log, "csv", tmp_path / "data", ImportOptions(columns=ColumnMap(group="household")))
    assert caught.value.hint
    assert str(caught.value).isprintable()


def test_parquet_columns_that_differ_only_by_case(tmp_path, make_rows):
    rows = make_rows(users=3)
    names = ("user_id", "timestamp", "PLACE", "Behavior", "place", "behavior")
    columns = [[row[i] for row in rows] for i in (0, 1, 2, 2, 2, 3)]
    columns[2] = columns[3] = ["wrong"] * len(rows)
    pq.write_table(pa.table(columns, names=list(names)), tmp_path / "log.parquet")
    info = import_log(tmp_path / "log.parquet", "parquet", tmp_path / "data")
    assert sorted(info.candidates.labels) == sorted({row[3] for row in rows})
    assert sorted(Dataset.open(tmp_path / "data").places) == sorted({row[2] for row in rows})
    pq.write_table(pa.table([columns[0], *columns[:4]], names=["user_id", *names[:4]]), tmp_path / "log.parquet")
    options = ImportOptions(columns=ColumnMap(place="PLACE", behavior="Behavior"))
    with pytest.raises(EdgebError, match="two columns are called 'user_id'"):
        import_log(tmp_path / "log.parquet", "parquet", tmp_path / "more", options)


def test_nested_parquet_columns_do_not_shift_the_others(tmp_path, make_rows):
    rows = make_rows(users=3)
    nested = pa.array([{"a": {"b": 1, "c": [1, 2]}, "d": "x"}] * len(rows))
    table = pa.table({"extra": nested, **{name: [row[i] for row in rows] for i, name in enumerate(HEADER)}})
    pq.write_table(table, tmp_path / "log.parquet")
    info = import_log(tmp_path / "log.parquet", "parquet", tmp_path / "data")
    assert sorted(info.candidates.labels) == sorted({row[3] for row in rows})
