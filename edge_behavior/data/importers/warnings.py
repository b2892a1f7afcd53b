"""What is odd about the events of a log that can be imported all the same.

Reads the table `events` (user, time, place, behavior; codes but for the time), after the drops.
"""

from __future__ import annotations

from edge_behavior.data.duck import Engine

_RECENT = 1980
_TELLING = 0.99  # of the events at places that come up again


def warn(engine: Engine, duplicates: int, placed: bool = True) -> list[str]:
    """One line for each thing that is odd.

    Args:
        duplicates: Rows that were dropped because an equal one is there.
        placed: Whether events have places.
    """
    found = []
    if without_hours(engine):
        lost = f"; {duplicates:,} rows were exact duplicates, events of the same day among them" if duplicates else ""
        found.append(f"no time has an hour, so the model will learn nothing about the time of day{lost}")
    end = engine.row("SELECT max(time) FROM events")[0]
    if end is not None and end.year < _RECENT:
        found.append(f"the last event is of {end:%Y-%m-%d}: check --time-unit and the time column")
    if placed and _place_tells(engine):
        found.append(
            "a place has one behavior only, nearly always: the place gives the answer away. "
            "Use coarser places, or import without them (--no-place)"
        )
    return found


def without_hours(engine: Engine) -> bool:
    """Whether every event is at midnight, as dates without a time are read."""
    return engine.number("SELECT count(*) FROM events WHERE time <> date_trunc('day', time)") == 0


def _place_tells(engine: Engine) -> bool:
    """Whether the place decides the behavior, at the places that more than one event has."""
    again, usual, behaviors = engine.row(
        "SELECT coalesce(sum(n), 0), coalesce(sum(most), 0), count(DISTINCT usual) FROM "
        "(SELECT place, sum(n) AS n, max(n) AS most, arg_max(behavior, n) AS usual FROM "
        "(SELECT place, behavior, count(*) AS n FROM events GROUP BY place, behavior) GROUP BY place) WHERE n > 1"
    )
    return bool(behaviors > 1 and usual >= _TELLING * again)
