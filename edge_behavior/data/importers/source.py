"""What an importer hands on: a table of raw events, and how their texts become names.

Every loader leaves a DuckDB table `log` (user, time, place, behavior, and user_group where users are grouped; text but
for the time), in the order of the file, and a `Source`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_behavior.core.events import clean_place
from edge_behavior.data.importers.text import Where


@dataclass(frozen=True)
class Source:
    """A loaded log.

    Attributes:
        files: The files it came from, for their hashes.
        where: Row index to `file:line`.
        place: How places were made, for dataset.json; its `kind` is `none` where there are none.
        place_name: Raw place text to place name.
        label_name: Raw behavior text to label, or None where the event has no label and is dropped; None when the
            text is the label.
        no_label: Why an event without a label is dropped, for the report.
        grouped: Whether `log` says which group a user belongs to.
    """

    files: tuple[Path, ...]
    where: Where
    place: dict[str, Any]
    place_name: Callable[[str], str] = clean_place
    label_name: Callable[[str], str | None] | None = None
    no_label: str = "no_label"
    grouped: bool = False
