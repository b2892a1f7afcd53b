"""What is drawn together: users, their groups, or blocks of days, each whole and nobody else's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_behavior.data.dataset import EventTable
from edge_behavior.data.resampling import BLOCK_DAYS, FEWEST_BLOCKS, block_days, resampling
from edge_behavior.data.windows import positions
from edge_behavior.util.resampling import Resampled, Resampling
from tests import helpers

TABLE = helpers.event_table([["Video", "Bar"] * 30, ["Bar"] * 40, ["Café"] * 25, ["Video"] * 10])


def by_time(days: int, per_day: int = 2, users: int = 1, from_day: int = 0) -> EventTable:
    """Users with so many events every day, those from a day on being targets."""
    n = days * per_day
    start = np.datetime64("2024-01-03T00:00:00")
    time = start + np.arange(n) * np.timedelta64(24 * 3600 // per_day, "s")
    table = helpers.event_table([["Video", "Bar"] * (n // 2)] * users)
    firsts = table.user_offsets[:-1] + from_day * per_day
    return replace(table, time=np.tile(time.astype("datetime64[s]"), users), first_targets=firsts)


def test_users_are_drawn_whole() -> None:
    targets = np.array([3, 70, 5, 120, 61])
    found = resampling(TABLE, targets)
    assert found.codes.tolist() == TABLE.user_of(targets).tolist()
    assert found.summary().to_dict() == {"split": "users", "unit": "users", "count": 3, "days": None}


def test_groups_are_drawn_whole() -> None:
    table = replace(TABLE, groups=np.array([4, 9, 4, 0], dtype=np.int32))
    found = resampling(table, np.array([3, 70, 110, 130]))
    assert found.codes.tolist() == [4, 9, 4, 0]
    assert found.summary().to_dict() == {"split": "users", "unit": "groups", "count": 3, "days": None}


@given(
    days=st.integers(2, 120),
    per_day=st.sampled_from([2, 4]),
    users=st.integers(1, 4),
    grouped=st.booleans(),
    data=st.data(),
)
def test_blocks_hold_neighbouring_days_of_one_owner(
    days: int, per_day: int, users: int, grouped: bool, data: st.DataObject
) -> None:
    table = by_time(days, per_day, users, from_day=data.draw(st.integers(0, days - 1)))
    if grouped:
        table = replace(table, groups=np.array([u // 2 for u in range(users)], dtype=np.int32))
    targets = positions(table.target_starts, table.user_offsets[1:])
    found = resampling(table, targets)
    length = block_days(table)
    assert 1 <= length <= BLOCK_DAYS
    # A week, unless that leaves too few; then the longest that does not.
    assert length == BLOCK_DAYS or found.count >= FEWEST_BLOCKS or length == 1
    owners = table.user_of(targets) if table.groups is None else table.groups[table.user_of(targets)]
    day = table.time[targets].astype("datetime64[D]").astype(int)
    for code in np.unique(found.codes):
        mine = found.codes == code
        assert len(np.unique(owners[mine])) == 1
        assert day[mine].max() - day[mine].min() < length
    # The same blocks whichever windows are asked about.
    assert resampling(table, targets[::3]).codes.tolist() == found.codes[::3].tolist()


def test_a_year_is_cut_into_weeks() -> None:
    table = by_time(365, from_day=280)
    found = resampling(table, positions(table.target_starts, table.user_offsets[1:]))
    assert found.summary().to_dict() == {"split": "time", "unit": "day_blocks", "count": found.count, "days": 7}
    assert found.count in (13, 14)


@pytest.mark.parametrize(
    ("unit", "days", "text"),
    [
        ("users", None, "users"),
        ("groups", None, "groups"),
        ("day_blocks", 7, "blocks of 7 days"),
        ("day_blocks", 1, "blocks of a day"),
    ],
)
def test_words(unit: str, days: int | None, text: str) -> None:
    assert Resampled("users", unit, 3, days).text == text


def test_numbers_of_units() -> None:
    assert Resampled("time", "day_blocks", 26, 7).counted == "26 blocks of 7 days"
    assert Resampled("time", "day_blocks", 1, 7).counted == "1 block of 7 days"
    assert Resampled("users", "users", 1200).counted == "1,200 users"


def test_some_of_the_windows() -> None:
    units = Resampling(np.array([1, 1, 5]), "groups")
    assert units.take(np.array([True, False, True])).summary().count == 2
