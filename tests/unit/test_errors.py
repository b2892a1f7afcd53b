"""Errors carry what is wrong and what to do; hints name the nearest valid word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.errors import EdgebError, GateError, nearest

NAMES = ("natural", "balanced", "both")


def test_an_error_shows_its_message_and_hint():
    error = EdgebError("log.csv:3: no time", "write ISO 8601")
    assert (error.message, error.hint) == ("log.csv:3: no time", "write ISO 8601")
    assert str(error) == "log.csv:3: no time (write ISO 8601)"
    assert str(EdgebError("alone")) == "alone"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("two\nlines", "two lines"),
        ("log.csv:9: '2024-\r\n01-01' is not a time", "log.csv:9: '2024- 01-01' is not a time"),
        ("a  path with  two spaces", "a  path with  two spaces"),
        ("\x1b[2Jlabel", "\\x1b[2Jlabel"),
        ("a\u202eb\u200ec", "a\\u202eb\\u200ec"),
        ("Café 東京 🎉", "Café 東京 🎉"),
        ("file-\udcff", "file-\udcff"),
    ],
)
def test_a_message_is_one_line_that_a_terminal_can_only_show(said, shown):
    error = EdgebError(said, said)
    assert (error.message, error.hint, error.args) == (shown, shown, (shown,))


@given(st.text())
def test_no_text_can_break_the_line(text):
    shown = str(EdgebError(f"x{text}", text))
    assert len(f"{shown}.".splitlines()) == 1
    assert "\x1b" not in shown


def test_exit_codes_tell_the_users_fault_from_a_failed_gate():
    assert EdgebError("x").exit_code == 2
    assert GateError("x").exit_code == 1
    with pytest.raises(EdgebError):
        raise GateError("parity failed", "look at the report")


@pytest.mark.parametrize(
    ("typed", "meant"), [("naturl", "natural"), ("BALANCED", "balanced"), ("bothh", "both"), ("balancd", "balanced")]
)
def test_nearest_names_the_word_that_was_meant(typed, meant):
    assert nearest(typed, NAMES) == f"did you mean '{meant}'?"


def test_nearest_keeps_the_valid_names_own_case():
    assert nearest("watch video", ["Watch Video", "Work"]) == "did you mean 'Watch Video'?"


def test_nearest_lists_what_is_valid_when_nothing_is_close():
    assert nearest("zzz", NAMES) == "valid: balanced, both, natural"
    many = [f"name{i:02d}" for i in range(20)]
    assert nearest("zzz", many, fallback=3) == "valid: name00, name01, name02, … (20 in all)"
    assert nearest("zzz", many, fallback=20).endswith("name19")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12), st.sets(st.text("abcdefgh_-", min_size=1, max_size=10), min_size=1, max_size=12))
def test_nearest_only_ever_names_valid_words(typed, known):
    hint = nearest(typed, known, fallback=5)
    if hint.startswith("did you mean"):
        assert hint[len("did you mean '") : -len("'?")] in known
    else:
        listed = hint.removeprefix("valid: ").split(", …")[0].split(", ")
        assert listed == sorted(known)[:5]


@settings(max_examples=40, deadline=None)
@given(st.text("abcdefghij", min_size=4, max_size=12))
def test_a_word_is_nearest_to_itself(word):
    assert nearest(word.upper(), [word, "0123456789"]) == f"did you mean '{word}'?"
