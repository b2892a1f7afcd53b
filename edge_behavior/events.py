"""What happened: one `BehaviorEvent`, and the history files that hold a user's recent ones.

Knows nothing of prompts, tokens or candidate sets. Text that comes from a log is cleaned here, once,
so that nothing downstream has to distrust it.
"""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from edge_behavior.errors import EdgebError

MAX_PLACE_CHARS = 48
MAX_LABEL_CHARS = 100
UNKNOWN_PLACE = "unknown"
_PLACE_PUNCTUATION = frozenset("-_.&/+")
HISTORY_FIELDS = ("timestamp", "place", "behavior")


@dataclass(frozen=True, slots=True)
class BehaviorEvent:
    """One thing a user did: where, when (local time, no zone) and what (paper §2.1, e = (l, t, b))."""

    place: str
    time: datetime
    behavior: str


@lru_cache(maxsize=65_536)
def clean_place(text: str) -> str:
    """Reduce a place name to letters, digits, single spaces and `-_.&/+`, at most 48 characters.

    Brackets, commas, quotes, newlines and control characters are what gives a prompt its structure, so
    a place name cannot contain them; an empty result becomes "unknown".
    """
    kept = [
        c if unicodedata.category(c)[0] in "LMN" or c in _PLACE_PUNCTUATION else " "
        for c in unicodedata.normalize("NFC", text)
    ]
    return " ".join("".join(kept).split())[:MAX_PLACE_CHARS].rstrip() or UNKNOWN_PLACE


def clean_label(text: str) -> str:
    """Normalize a behavior label: NFC, outer space trimmed, inner space runs made one space.

    Raises:
        EdgebError: the label is empty, longer than 100 characters or holds a control character.
    """
    label = " ".join(part for part in unicodedata.normalize("NFC", text).strip().split(" ") if part)
    if not label:
        raise EdgebError("a behavior label is empty", "drop the row or give the behavior a name")
    bad = next((c for c in label if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")), None)
    if bad is not None:
        raise EdgebError(
            f"behavior label {label!r} holds the control character U+{ord(bad):04X}",
            "labels are one line of plain text; rename it in the log",
        )
    if len(label) > MAX_LABEL_CHARS:
        raise EdgebError(
            f"behavior label {label[:40]!r}… has {len(label)} characters", f"use at most {MAX_LABEL_CHARS}"
        )
    return label


def parse_time(text: str, where: str) -> datetime:
    """Parse an ISO 8601 local time; `where` names the file and line for the error message.

    A zone suffix is refused rather than dropped: events are kept in the user's local time.
    """
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise EdgebError(
            f"{where}: '{text}' is not a time", "write ISO 8601 local time, like 2012-05-01T18:00"
        ) from None
    if time.tzinfo is not None:
        raise EdgebError(f"{where}: '{text}' carries a time zone", "convert it to the user's local time first")
    return time


def _rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix in (".jsonl", ".ndjson"):
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    where = f"{path}:{number}"
                    try:
                        row = json.loads(line)
                    except ValueError as error:
                        reason = getattr(error, "msg", str(error))
                        raise EdgebError(f"{where}: not JSON ({reason})", "write one JSON object per line") from None
                    if not isinstance(row, dict):
                        raise EdgebError(f"{where}: not a JSON object", f"write the fields {', '.join(HISTORY_FIELDS)}")
                    yield where, row
            else:
                reader = csv.DictReader(file)
                for row in reader:
                    yield f"{path}:{reader.line_num}", dict(row)
    except OSError as error:
        raise EdgebError(f"cannot read history file {path}: {error.strerror}", "pass a CSV or JSONL file") from None
    except csv.Error as error:
        raise EdgebError(f"{path}: not CSV ({error})", "pass a CSV or JSONL file of one user's events") from None
    except UnicodeDecodeError:
        raise EdgebError(f"{path} is not UTF-8 text", "pass a CSV or JSONL file of one user's events") from None


def read_history(path: Path, places: bool = True) -> list[BehaviorEvent]:
    """Read one user's events (CSV with a header, or JSONL) with fields timestamp, place, behavior, oldest first.

    Args:
        places: Whether events have a place. Without, none is looked for and every event's is `UNKNOWN_PLACE`.

    Raises:
        EdgebError: naming file and line, on an unreadable file, a missing field, a bad time, several users,
            or times that go backwards. An empty history is allowed.
    """
    events: list[BehaviorEvent] = []
    users: set[str] = set()
    fields = [name for name in HISTORY_FIELDS if places or name != "place"]
    for where, row in _rows(path):
        missing = [name for name in fields if not isinstance(row.get(name), str)]
        if missing:
            raise EdgebError(f"{where}: no text field '{missing[0]}'", f"the fields are {', '.join(fields)}")
        users.add(str(row.get("user_id", "")))
        if len(users) > 1:
            raise EdgebError(f"{where}: a second user_id", "a history file holds one user's events")
        event = BehaviorEvent(
            place=clean_place(str(row["place"])) if places else UNKNOWN_PLACE,
            time=parse_time(str(row["timestamp"]), where),
            behavior=_label_at(str(row["behavior"]), where),
        )
        if events and event.time < events[-1].time:
            raise EdgebError(
                f"{where}: {event.time.isoformat()} is before the event above it", "sort the file by timestamp"
            )
        events.append(event)
    return events


def _label_at(text: str, where: str) -> str:
    try:
        return clean_label(text)
    except EdgebError as error:
        raise EdgebError(f"{where}: {error.message}", error.hint) from None


def write_history(path: Path, events: Sequence[BehaviorEvent]) -> None:
    """Write events as the CSV that `read_history` reads."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HISTORY_FIELDS)
        writer.writerows((e.time.isoformat(timespec="minutes"), e.place, e.behavior) for e in events)
