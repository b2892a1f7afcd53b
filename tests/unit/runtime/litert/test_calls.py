"""The cheapest calls for so many tokens."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.runtime.litert.calls import CallPlanner, planner_of


def cheapest(costs: dict[int, float], tokens: int) -> float:
    """By trying everything."""
    if tokens == 0:
        return 0.0
    found = [
        sum(costs[size] for size in chosen)
        for count in range(1, tokens + 1)
        for chosen in combinations_with_replacement(costs, count)
        if sum(chosen) >= tokens
    ]
    return min(found, default=float("inf"))


@settings(max_examples=150, deadline=None)
@given(
    costs=st.dictionaries(st.integers(1, 7), st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), min_size=1, max_size=3),
    filled=st.sets(st.integers(1, 7)),
    count=st.integers(1, 7),
    data=st.data(),
)
def test_it_is_the_cheapest_there_is(
    costs: dict[int, tuple[float, float]], filled: set[int], count: int, data: st.DataObject
) -> None:
    beginning = data.draw(st.integers(0, count - 1))
    steps = {size: both[0] for size, both in costs.items()}
    firsts = {size: both[1] for size, both in costs.items() if size in filled}
    calls = CallPlanner(steps, firsts).plan(count, beginning)
    begun = [cost + cheapest(steps, count - min(size, beginning)) for size, cost in firsts.items()]
    least = min([cheapest(steps, count), *(begun if beginning else [])])
    assert sum((firsts if call.first else steps)[call.size] for call in calls) == pytest.approx(least)
    at = 0
    for call in calls:
        assert call.start == at < call.stop <= at + call.size
        assert not call.first or (call.start == 0 and call.stop <= beginning)
        at = call.stop
    assert at == count


def test_by_hand() -> None:
    planner = planner_of(graph_of(vocabulary=49152))

    def sizes(count: int, beginning: int) -> list[tuple[int, bool]]:
        return [(call.size, call.first) for call in planner.plan(count, beginning)]

    assert sizes(1, 0) == [(1, False)]
    assert sizes(12, 0) == [(16, False)]
    # One call more costs more than a few tokens.
    assert sizes(20, 0) == [(24, False)]
    assert sizes(298, 294) == [(256, True), (24, False), (24, False)]
    assert sizes(180, 170) == [(128, True), (64, False)]
    # Behind a prompt that is there, no call can begin one.
    assert all(not first for _, first in sizes(298, 0))


def test_a_long_cache_makes_long_calls_dear() -> None:
    """Attention to every slot is most of a long call, and weights are most of a short one."""
    assert [call.size for call in planner_of(graph_of(cache=64)).plan(110, 0)] == [128]
    assert [call.size for call in planner_of(graph_of(cache=4096)).plan(110, 0)] == [64, 24, 24]


def graph_of(**changes: Any) -> LiteRtGraph:
    """SmolLM2-135M's, but for some fields."""
    return replace(
        LiteRtGraph((1, 8, 16, 24, 32, 64, 128), (128, 256), 512, 30, 576, 3, 64, 2000, tuple([0.1] * 32)), **changes
    )
