"""The order of one user's events is that of the file or list, not of their times: a local clock may go back.

It does at the end of daylight saving time and on flights west. Times are compared by the minute, the resolution that
model and phone see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from edge_behavior.errors import EdgebError

# The largest difference between local times: UTC+14 to UTC-12.
MOST_BACK_HOURS = 26
_HINT = f"a local clock goes back by {MOST_BACK_HOURS} hours at most; "
# A list is newest first from this many steps back, and this many times as many as steps forward.
_LEAST_BACK, _MOSTLY = 2, 3


def minutes_back(earlier: datetime, later: datetime) -> int:
    """Minutes by which the clock went back from one event to the next; 0 where it did not."""
    gap = earlier.replace(second=0, microsecond=0) - later.replace(second=0, microsecond=0)
    return max(0, gap // timedelta(minutes=1))


def check_step(earlier: datetime, later: datetime, what: str, hint: str = "use a later time") -> int:
    """Minutes by which the clock went back from the last event to `later`.

    Args:
        what: Names `later` in the message.
        hint: What to do about it.

    Raises:
        EdgebError: more than a local clock can go back.
    """
    back = minutes_back(earlier, later)
    if back > MOST_BACK_HOURS * 60:
        raise EdgebError(
            f"{what}, {later.isoformat(timespec='minutes')}, is {_span(back)} before the last event "
            f"({earlier.isoformat(timespec='minutes')})",
            _HINT + hint,
        )
    return back


def check_order(times: Sequence[datetime], where: Callable[[int], str]) -> int:
    """How many events are earlier than the one before them.

    Args:
        where: Names the event at an index, for error messages.

    Raises:
        EdgebError: the list is newest first, or a step goes back by more than a local clock can.
    """
    backs = [minutes_back(a, b) for a, b in pairwise(times)]
    back = sum(b > 0 for b in backs)
    forward = sum(minutes_back(b, a) > 0 for a, b in pairwise(times))
    if back >= _LEAST_BACK and back >= _MOSTLY * forward:
        raise EdgebError(f"{where(0)}: the newest event comes first", "sort the events by time, oldest first")
    for i, minutes in enumerate(backs, 1):
        if minutes > MOST_BACK_HOURS * 60:
            raise EdgebError(
                f"{where(i)}: {times[i].isoformat(timespec='minutes')} is {_span(minutes)} before the event above it",
                _HINT + "sort the events by time, oldest first",
            )
    return back


def _span(minutes: int) -> str:
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 72 else f"{hours // 24} days"
