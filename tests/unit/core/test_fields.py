"""The strict reader of JSON objects: what fits passes unchanged, everything else is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_behavior.core.fields import NULL, is_number, is_whole, naming, parse_json, read_fields, read_list
from edge_behavior.errors import EdgebError

KINDS = {"id": int, "share": (int, float), "name": (str, NULL), "flag": bool, "any": object}
GOOD: dict[str, Any] = {"id": 3, "share": 0.5, "name": None, "flag": True, "any": [1]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def test_what_fits_is_returned_as_a_copy():
    found = read_fields(GOOD, KINDS, "x")
    assert found == GOOD
    assert found is not GOOD
    assert read_fields({"a": 1, "b": "2"}, ("a", "b"), "x") == {"a": 1, "b": "2"}, "names alone check no type"
    assert read_list([1, 2], "x", int, length=2) == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": True}, "f.json: field 'id' is True, not int"),
        ({"id": 3.0}, "f.json: field 'id' is 3.0, not int"),
        ({"share": "1"}, "f.json: field 'share' is '1', not int or float"),
        ({"share": False}, "f.json: field 'share' is False, not int or float"),
        ({"name": 1}, "f.json: field 'name' is 1, not str or null"),
        ({"flag": 1}, "f.json: field 'flag' is 1, not bool"),
        ({"nme": 1}, "f.json: unknown field 'nme'"),
    ],
)
def test_the_field_is_named(change: dict[str, Any], message: str):
    with pytest.raises(EdgebError) as caught:
        read_fields(GOOD | change, KINDS, "f.json", "copy it again")
    assert caught.value.message == message
    assert caught.value.hint == ("did you mean 'name'?" if "nme" in change else "copy it again")


def test_missing_fields_and_other_values():
    with pytest.raises(EdgebError, match="x: field 'flag' is missing"):
        read_fields({k: v for k, v in GOOD.items() if k != "flag"}, KINDS, "x")
    with pytest.raises(EdgebError, match="x is not an object but list"):
        read_fields([], KINDS, "x")
    with pytest.raises(EdgebError, match=r"x is \{\}, not a list"):
        read_list({}, "x")
    with pytest.raises(EdgebError, match=r"x is \[1\], not a list of 2"):
        read_list([1], "x", length=2)
    with pytest.raises(EdgebError, match=r"x\[1\] is None, not str"):
        read_list(["a", None], "x", str)


@given(JSON)
def test_any_json_value_is_read_or_refused_in_one_line(value: Any):
    for read in (lambda: read_fields(value, KINDS, "x"), lambda: read_list(value, "x", int, 2)):
        said = "read"
        try:
            read()
        except EdgebError as error:
            said = error.message
        assert said.splitlines() == [said]


def test_numbers():
    assert is_whole(0, 0, 1)
    assert not any(is_whole(value, 0, 2) for value in (True, 1.0, 2, -1, "1", None))
    assert is_number(0.5, 0, 1)
    assert is_number(1, 0, 1)
    assert not any(is_number(value, 0, 1) for value in (True, float("nan"), 1.5, 10**400, "1", None))


def test_text_that_is_not_json():
    assert parse_json(b'{"a": 1}', "x") == {"a": 1}
    for content in ("", "{", b"\xff", "[" * 100_000):
        with pytest.raises(EdgebError, match="x is not JSON"):
            parse_json(content, "x")


def test_naming_keeps_the_hint():
    with pytest.raises(EdgebError) as caught, naming("f.json"):
        raise EdgebError("it is odd", "mend it")
    assert (caught.value.message, caught.value.hint) == ("f.json: it is odd", "mend it")
