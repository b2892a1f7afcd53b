"""A history file on the command line: its options, and notes on stderr about clocks and skipped events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_behavior.core.candidates import CandidateSet
    from edge_behavior.core.events import BehaviorEvent
    from edge_behavior.records.history import History, Skipped

HistoryUser = Annotated[
    str | None, typer.Option(help="Whose events to take from a history of several users.", show_default=False)
]
HistoryZone = Annotated[
    str | None,
    typer.Option(
        help="Zone of the user, as `edgeb predict` takes it, for times with an offset or counted from 1970.",
        show_default=False,
    ),
]
HistoryTimeUnit = Annotated[
    str | None,
    typer.Option(help="What the history's numbers count from 1970: s, ms, us or ns.", show_default=False),
]


def known_events(
    history: History, candidates: CandidateSet, unknown: str = "skip"
) -> tuple[list[BehaviorEvent], list[Skipped]]:
    """The events whose behaviors are candidates, and the skipped ones; prints notes about the file to stderr.

    Raises:
        EdgebError: as `History.known`.
    """
    events, skipped = history.known(candidates, unknown)
    for note in history.notes(skipped):
        typer.echo(f"note: {note}", err=True)
    return events, skipped


def asked_note(events: Sequence[BehaviorEvent], when: datetime) -> None:
    """Print a note to stderr if the time to predict for is before the last event."""
    from edge_behavior.core.times.event_order import minutes_back

    back = minutes_back(events[-1].time, when) if events else 0
    if back:
        minutes = "1 minute" if back == 1 else f"{back} minutes"
        typer.echo(f"note: --at is {minutes} before the last event: read as a clock set back", err=True)
