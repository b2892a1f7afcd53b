"""What a loader hands on: a DuckDB table of raw events, and how its texts become names.

Every loader creates the table `log` (user, time, place, behavior, and user_group where users are grouped; all text but
the time), in the order of the file, and returns a `LoadedLog`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_behavior.core.events import clean_place
from edge_behavior.data.info import PlaceInfo

# Row number in the table `log` to "file:line", for error messages.
Locate = Callable[[int], str]


@dataclass(frozen=True)
class LoadedLog:
    """A log in DuckDB.

    Attributes:
        files: The files it was read from.
        locate: Row number to `file:line`.
        place: How places are made; the import fills in the counts.
        place_name: Raw place text to place name.
        label_name: Raw behavior text to label, or None for an event to drop; None where the text is the label.
        no_label: Reason under which events without a label are counted.
        grouped: Whether `log` has the users' groups.
    """

    files: tuple[Path, ...]
    locate: Locate
    place: PlaceInfo
    place_name: Callable[[str], str] = clean_place
    label_name: Callable[[str], str | None] | None = None
    no_label: str = "no_label"
    grouped: bool = False
