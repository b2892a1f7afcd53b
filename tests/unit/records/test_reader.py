"""Records are the same however they are written, and a broken one is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.records.reader import open_records, require_fields

FIELDS = ("time", "place", "label")
ROWS = [["t1", "home", "Mail"], ["t2", "a, b; c|d\te", 'say "hi"'], ["t3", "", "two\nlines"]]


def put(folder: Path, text: str) -> Path:
    path = folder / "log"
    path.write_bytes(text.encode())
    return path


def read(path: Path, fields: tuple[str, ...] = FIELDS) -> list[tuple[int, list[str]]]:
    return list(open_records(path, fields).records(fields))


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("before", ["", "\n\n", "\ufeff", "sep={}\n", '"sep={}"\r\n', "SEP={}\n"])
@pytest.mark.parametrize("spaces", ["", "  "])
def test_dialects(tmp_path, delimiter, end, before, spaces):
    lines = [(delimiter + spaces).join(quoted(f) if i else f for f in row) for i, row in enumerate([FIELDS, *ROWS])]
    text = before.format(delimiter) + end.join([*lines[:2], "", " ", *lines[2:]]) + end
    assert [values for _, values in read(put(tmp_path, text))] == ROWS


def test_sep_names_what_the_header_hides(tmp_path):
    assert read(put(tmp_path, "sep=:\ntime:place, all of them:label\nt:p:l\n"), ("time", "label")) == [(3, ["t", "l"])]


def test_the_delimiter_gives_the_columns_that_are_wanted(tmp_path):
    assert read(put(tmp_path, "label;place;time;a,b,c,d,e\nl;p;t;x\n")) == [(2, ["t", "p", "l"])]


def test_lines_of_records(tmp_path):
    text = '\ntime,"pl""ace",label\n\n1,"a\nb",c\n2,,d\n\n3,,e,\n'
    assert [line for line, _ in read(put(tmp_path, text), ("time", "label"))] == [4, 6, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,place,label\n1,2,3\n1,2,3,4\n", ":3: 4 fields where 3 are expected"),
        ("time,place,label\n1,2\n", ":2: 2 fields where 3"),
        ('time,place,label\n1,"2,3\n4,5,6\n', ":2: unexpected end of data"),
        ('time,place,label\n1,2,3\n1,"2"x,3\n', ":3: ',' expected after '\"'"),
        ("time,place,label\n1,2," + "x" * 2_000_001 + "\n", ":2: field larger than"),
        ('{"time": 1}\n{"time": \n', ":2: not JSON"),
        ('{"time": 1}\n[2]\n', ":2: not a JSON object"),
        ('{"time": NaN}\n', ":1: not JSON .NaN is not a JSON value"),
        ('{"time": 1e999}\n', ":1: not JSON .1e999 is too large"),
        ("{" * 100_000, ":1: not JSON"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, ":1: not JSON .nested too deeply"),
        ("{\n", "write each object on one line"),
        ('[\n{"time": 1},\n{"time": }\n]', ":3: not JSON"),
        ('[{"time": 1}\n{"time": 2}]', ":2: not JSON .the list does not end here"),
        ('[{"time": 1},\n{"time": 2}', ":2: not JSON .the list does not end here"),
        ('[{"time": 1}]\n\n{"time": 2}', ":3: not JSON .something follows the list"),
        ('[{"time": 1},\n7]', ":2: not a JSON object"),
        ("[]", "holds an empty list"),
        (" \n\t\n", "is empty"),
        ("", "is empty"),
        ("sep=;\n", "has no header"),
    ],
)
def test_what_is_broken_is_named(tmp_path, text, message):
    with pytest.raises(EdgebError) as caught:
        read(put(tmp_path, text), ("time",))
    assert message.replace(" .", " (") in str(caught.value).replace("JSON .", "JSON (")
    assert caught.value.hint
    assert "\n" not in str(caught.value)


JSON_ROWS = [
    {"time": "t1", "place": "home", "label": 7},
    {"time": 1710748740000, "place": None, "label": 7.0, "more": {"a": [1]}},
    {"time": "t3", "label": "7"},
    {"time": 1.5, "place": "x", "label": 12345678901234567890123},
]
JSON_TEXT = [
    ["t1", "home", "7"],
    ["1710748740000", "", "7"],
    ["t3", "", "7"],
    ["1.5", "x", "12345678901234567890123"],
]


@pytest.mark.parametrize("indent", [None, 1])
def test_json_values(tmp_path, indent):
    whole = put(tmp_path, json.dumps(JSON_ROWS, indent=indent))
    assert [values for _, values in read(whole)] == JSON_TEXT
    if indent:
        assert [line for line, _ in read(whole)] == [2, 7, 17, 21]
    lines = put(tmp_path, "\r\n\r\n".join(json.dumps(row) for row in JSON_ROWS))
    assert read(lines) == [(2 * i + 1, values) for i, values in enumerate(JSON_TEXT)]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("true", "true"),
        ("false", "false"),
        ("{}", "an object"),
        ('["a"]', "a list"),
        ('"\\ud800"', "half a surrogate pair"),
    ],
)
def test_json_values_that_are_no_text(tmp_path, value, what):
    with pytest.raises(EdgebError, match=rf":2: field 'label' holds {what}"):
        read(put(tmp_path, '{"label": "a"}\n{"label": ' + value + "}\n"), ("label",))
    # Nobody asked for that field.
    assert len(read(put(tmp_path, '{"time": "a"}\n{"time": "b", "label": ' + value + "}\n"), ("time",))) == 2


def test_fields_are_required_where_no_record_follows(tmp_path):
    file = open_records(put(tmp_path, " time , place,Label\n"), FIELDS)
    require_fields(file.text.path, file.names, ("time", "place"), ["a", "b"])
    with pytest.raises(EdgebError, match=r"no column 'label' \(did you mean 'Label'\?\)") as caught:
        require_fields(file.text.path, file.names, FIELDS, ["a", "b", "c"])
    assert caught.value.hint == "c"
    twice = open_records(put(tmp_path, "time,place,time\n"), FIELDS)
    with pytest.raises(EdgebError, match="two columns are called 'time'"):
        require_fields(twice.text.path, twice.names, ("time",), ["a"])
