"""A local clock may go back: how far, and how a list of events that is upside down is told from one."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.times.event_order import MOST_BACK_HOURS, check_order, check_step, minutes_back
from edge_behavior.errors import EdgebError

NOON = datetime(2024, 10, 27, 12)


def at(*minutes: float) -> list[datetime]:
    return [NOON + timedelta(minutes=m) for m in minutes]


def line(i: int) -> str:
    return f"h.csv:{i + 2}"


@pytest.mark.parametrize(
    ("times", "back"),
    [
        ([], 0),
        ([0], 0),
        ([0, 0, 0], 0),
        ([0, 30, -15], 1),  # daylight saving time ends
        ([0, -190], 1),  # a flight west
        ([0, -MOST_BACK_HOURS * 60], 1),
        ([0, 10, 5, 20, 15, 30], 2),
        ([0, 5, 10, 3, 1], 2),
        ([0.5, 0, 1], 0),  # seconds say nothing
    ],
)
def test_what_a_clock_may_do(times, back):
    assert check_order(at(*times), line) == back


@pytest.mark.parametrize("times", [[0, -1, -2], [0, 0, -5, -5, -9], [0, -5, -3, -8, -10], list(range(0, -9000, -700))])
def test_newest_first_is_not_a_clock(times):
    with pytest.raises(EdgebError, match=r"^h\.csv:2: the newest event comes first") as caught:
        check_order(at(*times), line)
    assert "oldest first" in caught.value.hint


def test_further_back_than_a_clock_goes():
    with pytest.raises(EdgebError, match=r"^h\.csv:4: 2024-10-26T09:59 is 26 h 1 min before the event above it"):
        check_order(at(-10, 0, -1501 - 60, 5), line)
    with pytest.raises(EdgebError, match=r"^h\.csv:3: 2024-10-17T12:00 is 10 days before"):
        check_order(at(0, -14400), line)
    with pytest.raises(EdgebError, match=r"^the time asked for, .* is 27 h 0 min before the last event"):
        check_step(NOON, NOON - timedelta(hours=27), "the time asked for")
    assert check_step(NOON, NOON - timedelta(hours=26), "x") == 26 * 60
    assert check_step(NOON, NOON + timedelta(days=900), "x") == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)), min_size=2, max_size=9, unique=True))
def test_sorted_is_in_order_and_upside_down_is_not(times):
    times = sorted({t.replace(second=0, microsecond=0) for t in times})
    assert check_order(times, line) == 0
    if len(times) > 2:
        with pytest.raises(EdgebError, match="newest event comes first"):
            check_order(times[::-1], line)


@given(st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)), st.integers(-5000, 5000), st.integers(0, 59))
def test_minutes_back(time, minutes, second):
    time = time.replace(second=0, microsecond=0)
    assert minutes_back(time.replace(second=second), time + timedelta(minutes=minutes)) == max(0, -minutes)
