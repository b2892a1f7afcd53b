"""History files: one user's past events, oldest first.

`reader` detects the file's format. docs/data.md says how clocks that go back and unknown behaviors are treated.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import UNKNOWN_PLACE, BehaviorEvent, read_event
from edge_behavior.core.times.clock import LOCAL, Clock
from edge_behavior.core.times.event_order import check_order
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.records.missing import is_missing
from edge_behavior.records.reader import open_records, require_fields

FIELDS = ("timestamp", "place", "behavior")
USER = "user_id"
UNKNOWN = ("skip", "refuse")
_NAMED = 5


@dataclass(frozen=True)
class Skipped:
    """An event whose behavior is not in the candidate set."""

    line: int
    behavior: str


@dataclass(frozen=True)
class History:
    """The content of a history file.

    Attributes:
        events: In the order of the file.
        lines: Line number of each event.
        back: Number of events that are earlier than the one before them.
    """

    path: Path
    events: list[BehaviorEvent]
    lines: list[int]
    back: int

    def known(self, candidates: CandidateSet, unknown: str = "skip") -> tuple[list[BehaviorEvent], list[Skipped]]:
        """The events whose behaviors are candidates, and those that are skipped.

        Args:
            unknown: What to do with other behaviors: `skip` or `refuse`.

        Raises:
            EdgebError: an event is refused, or all are skipped.
        """
        check_unknown(unknown)
        events, skipped = [], []
        for event, line in zip(self.events, self.lines, strict=True):
            if event.behavior in candidates:
                events.append(event)
            elif unknown == "refuse":
                candidates.code(event.behavior, f"{self.path}:{line}")
            else:
                skipped.append(Skipped(line, event.behavior))
        if skipped and not events:
            raise EdgebError(
                f"{self.path}: no event's behavior is in the candidate set: {_listed(skipped)}",
                f"is this history for another bundle? {nearest(skipped[0].behavior, candidates.labels)}",
            )
        return events, skipped

    def notes(self, skipped: Sequence[Skipped] = ()) -> list[str]:
        """What the user should know about the file, one sentence each."""
        notes = []
        if not self.events:
            notes.append(f"{self.path} has no events: nothing is known about the user")
        if self.back:
            events = (
                "1 event is earlier than the one before it"
                if self.back == 1
                else (f"{self.back} events are earlier than the ones before them")
            )
            notes.append(f"{self.path}: {events}; kept in file order, because local clocks may go back")
        if skipped:
            events = "1 event was" if len(skipped) == 1 else f"{len(skipped)} events were"
            notes.append(f"{self.path}: {events} skipped, not in the candidate set: {_listed(skipped)}")
        return notes


def read_history(path: Path, user: str | None = None, places: bool = True, clock: Clock = LOCAL) -> History:
    """Read one user's events, oldest first.

    Args:
        path: CSV with a header, JSON lines or a JSON list of objects.
        user: The user whose events to take from a file of several users.
        places: Whether events have a place. If not, no place is read and every event's is unknown.
        clock: How to read times that have an offset or count from 1970; by default they are refused.

    Raises:
        EdgebError: naming file and line: another kind of file, a missing field, a bad time, several users without
            `user`, events listed newest first, or a step back that no local clock makes. A file with only a header
            is a history without events.
    """
    fields = [name for name in FIELDS if places or name != "place"]
    file = open_records(path, FIELDS)
    require_fields(path, file.names, fields, [f"a history has the fields {', '.join(fields)}"] * len(fields))
    wanted = [*fields, USER] if file.has_optional_fields or USER in file.names else fields
    events: list[BehaviorEvent] = []
    lines: list[int] = []
    users: Counter[str] = Counter()
    for line, values in file.records(wanted):
        where = f"{path}:{line}"
        row = dict(zip(wanted, values, strict=True))
        owner = row.get(USER, "").strip()
        users[owner] += 1
        if user is None and len(users) > 1:
            raise EdgebError(
                f"{where}: a second user, '{owner}', after '{next(iter(users))}'",
                "a history has one user's events; pick one with --user",
            )
        if user is not None and owner != user:
            continue
        place = row.get("place", "")
        place = UNKNOWN_PLACE if is_missing(place) else place
        events.append(read_event(row["timestamp"], place, row["behavior"], where, clock))
        lines.append(line)
    if user is not None and not events:
        raise EdgebError(f"{path}: no event of user '{user}'", nearest(user, users))
    back = check_order([event.time for event in events], lambda i: f"{path}:{lines[i]}")
    return History(path, events, lines, back)


def write_history(path: Path, events: Sequence[BehaviorEvent]) -> None:
    """Write events as the CSV that `read_history` reads."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        writer.writerows((e.time.isoformat(timespec="minutes"), e.place, e.behavior) for e in events)


def check_unknown(unknown: str) -> str:
    """Refuse an unknown value of --unknown, and return a known one.

    Raises:
        EdgebError: it is not one of UNKNOWN.
    """
    if unknown not in UNKNOWN:
        raise EdgebError(f"--unknown is '{unknown}'", nearest(unknown, UNKNOWN))
    return unknown


def _listed(skipped: Sequence[Skipped]) -> str:
    shown = [f"'{s.behavior}' (line {s.line})" for s in skipped[:_NAMED]]
    return ", ".join(shown) + (f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else "")
