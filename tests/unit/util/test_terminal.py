"""What is printed: no character stops it, no width hides a number, and every stream gets JSON that reads back."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Table

from edge_behavior.util.terminal import json_text, open_console, prepare_streams

ODD = {"label": "Café 日本 \N{SPEECH BALLOON}", "path": "/tmp/alt\udcfc", "quote": '"\\', "plain": "–…≤Δ█"}


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1", "utf-16", "cp437", None])
def test_json_reads_back_from_any_stream(encoding):
    for document in (ODD, {"label": "Maps"}, [], {"label": "Café"}):
        text = json_text(document, encoding)
        assert json.loads(text.encode(encoding or "utf-8").decode(encoding or "utf-8")) == document
    assert "Café" in json_text({"label": "Café"}, "latin-1")
    assert "é" not in json_text({"label": "Café"}, "ascii")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.sampled_from(["utf-8", "ascii", "cp1252", "cp437", "shift_jis", "utf-16"]))
def test_no_text_stops_a_stream(text, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        prepare_streams()
        print(text)
        open_console().print(text)
        stream.flush()


def test_brackets_and_colons_are_text():
    text, shown = "a [/b] [red]c[/red] :car: \\[d]", io.StringIO()
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    console = open_console(file=shown)
    console.print(text)
    console.print(table)
    assert shown.getvalue().count(text) == 5


def test_what_a_stream_cannot_hold(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    print("80–159 … ≤ 5 × █▌ é 日 \N{SPEECH BALLOON} /tmp/alt\udcfc")
    stream.flush()
    shown = stream.buffer.getvalue().decode()
    assert shown == "80-159 ... <= 5 x #| \\xe9 \\u65e5 \\U0001f4ac /tmp/alt\\xfc\n"


@pytest.mark.parametrize("variable", ["COLUMNS", "LINES"])
@pytest.mark.parametrize("value", ["0", "-5", "", "x", "²", "1e3", "99999999999", "9" * 5000, " 80"])
def test_a_size_that_is_none_is_passed_over(monkeypatch, variable, value):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setenv(variable, value)
    prepare_streams()
    found = open_console(file=io.StringIO())
    assert (found.width, found.height) == ((80, 30) if variable == "COLUMNS" else (100, 25))


@pytest.mark.parametrize("value", ["1", "19"])
def test_a_terminal_without_room_for_a_word(monkeypatch, value):
    monkeypatch.setenv("COLUMNS", value)
    prepare_streams()
    assert open_console(file=io.StringIO()).width == 80


CELLS = st.one_of(
    st.integers(-(10**12), 10**12).map(lambda n: f"{n:,}"),
    st.floats(0, 1e6).map(lambda x: f"{x:.3f}"),
    st.sampled_from([".200", "[.000,.250]", "±.250", "12.3 ms", "–"]),
)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(CELLS, min_size=6, max_size=6), min_size=1, max_size=4),
    width=st.integers(20, 90),
    right=st.booleans(),
    wrap=st.booleans(),
    grouped=st.booleans(),
)
def test_tables_show_every_number_at_any_width(rows, width, right, wrap, grouped):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        out = io.StringIO()
        console = open_console(file=out)
        table = Table(title="numbers of a table")
        for i in range(6):
            table.add_column(f"column {i}", justify="right" if right else "left", no_wrap=not wrap)
        for row in rows:
            table.add_row(*row)
        console.print(Group(table, "text") if grouped else table)
        assert console.width == width
    shown = out.getvalue()
    assert "…" not in shown
    for cell in (cell for row in rows for cell in row):
        assert all(word in shown for word in cell.split()), cell


def test_a_long_word_is_folded_not_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = io.StringIO()
    digest = "0123456789abcdef" * 4
    table = Table("field", "value")
    table.add_row("hash", digest)
    open_console(file=out).print(table)
    values = "".join(line.split("│")[2].strip() for line in out.getvalue().splitlines() if line.startswith("│"))
    assert values == digest
    assert max(map(len, out.getvalue().splitlines())) <= 40
