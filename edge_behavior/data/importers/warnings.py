"""Warnings about a log that can be imported but looks wrong.

Reads the table `events` (time, and codes of user, place and behavior) after all drops.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_behavior.core.events import MAX_PLACE_CHARS
from edge_behavior.data.duck import Database

_RECENT = 1980
_TELLING = 0.99  # share of the events at places with more than one event


def warn(database: Database, duplicates: int, placed: bool = True, cut_places: Sequence[str] = ()) -> list[str]:
    """Warnings for the user, one sentence each.

    Args:
        duplicates: Rows that were dropped as exact duplicates.
        placed: Whether events have places.
        cut_places: See `CodedLog.cut_places`.
    """
    found = []
    if without_hours(database):
        lost = f"; {duplicates:,} rows were exact duplicates, events of the same day among them" if duplicates else ""
        found.append(f"no time has an hour, so the model will learn nothing about the time of day{lost}")
    end = database.query_row("SELECT max(time) FROM events")[0]
    if end is not None and end.year < _RECENT:
        found.append(f"the last event is of {end:%Y-%m-%d}: check --time-unit and the time column")
    if placed and _place_tells(database):
        found.append(
            "events at one place nearly always have the same behavior: the place gives the answer away. "
            "Use coarser places, or import without them (--no-place)"
        )
    if placed and cut_places:
        found.append(
            f"place names are cut to {MAX_PLACE_CHARS} characters, which makes different places one, "
            f"like '{cut_places[0]}' ({len(cut_places)} in all): use shorter names"
        )
    return found


def without_hours(database: Database) -> bool:
    """Whether every event is at midnight, which is how dates without a time are read."""
    return database.query_int("SELECT count(*) FROM events WHERE time <> date_trunc('day', time)") == 0


def _place_tells(database: Database) -> bool:
    """Whether the place determines the behavior, at the places with more than one event."""
    again, usual, behaviors = database.query_row(
        "SELECT coalesce(sum(n), 0), coalesce(sum(most), 0), count(DISTINCT usual) FROM "
        "(SELECT place, sum(n) AS n, max(n) AS most, arg_max(behavior, n) AS usual FROM "
        "(SELECT place, behavior, count(*) AS n FROM events GROUP BY place, behavior) GROUP BY place) WHERE n > 1"
    )
    return bool(behaviors > 1 and usual >= _TELLING * again)
