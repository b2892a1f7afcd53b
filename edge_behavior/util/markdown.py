"""Markdown: tables, and text from a log shown literally."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table: the first `left` columns are aligned left, the others right.

    Args:
        heads: One per column; cells are Markdown, so that text from a log goes through `markdown_text` first.
    """
    rule = [*["---"] * left, *["---:"] * (len(heads) - left)]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]


def markdown_text(text: str) -> str:
    """Text from a log as Markdown that shows it literally, on one line and also inside a table cell."""
    entities = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$]|^[#+-])", r"\\\1", entities)
