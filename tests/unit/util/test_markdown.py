from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from edge_behavior.util.markdown import markdown_table, markdown_text


def test_markdown_table() -> None:
    assert markdown_table(["part", "what", "n"], [["a", "b", "1"]], left=2) == [
        "| part | what | n |",
        "| --- | --- | ---: |",
        "| a | b | 1 |",
    ]


@given(st.text(max_size=30))
def test_markdown_text_stays_in_its_cell(text: str) -> None:
    shown = markdown_text(text)
    assert "\n" not in shown
    assert "<" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*\|", shown)
