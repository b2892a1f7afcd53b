"""Budgets, forecasts and cuts by a clock that the test winds."""

from __future__ import annotations

import math

import pytest

from edge_behavior.util.timebox import LEAST_CYCLES, Cycles, Forecast, Pace, TimeBudget, clock_text


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_budget_counts_from_its_making(clock: Clock) -> None:
    budget, free = TimeBudget(60.0, clock), TimeBudget(None, clock)
    clock.now += 70.0
    assert (budget.elapsed, budget.left, budget.seconds) == (70.0, -10.0, 60.0)
    assert free.left == free.seconds == math.inf


def test_steps_to_come_take_what_was_measured(clock: Clock) -> None:
    forecast = Forecast(TimeBudget(None, clock), {"torch": 1.0, "llama": 2.0})
    forecast.expect("reference", "torch", lambda: 1000)
    forecast.expect("merge", "torch", lambda: 500)
    forecast.expect("convert", "llama", lambda: 100)
    forecast.expect("never", "llama", lambda: 9999)
    forecast.drop("never")
    assert forecast.left is None
    with forecast.step("reference", "Scoring", 10) as advance:
        clock.now += 4.0
        advance(2)
        # 200 of 1,000 units in 4 s; llama's are believed to take twice as long.
        assert forecast.left == pytest.approx(16.0 + 10.0 + 4.0)
        clock.now += 16.0
        advance(8)
    assert forecast.left == pytest.approx(10.0 + 4.0)
    with forecast.step("convert", "Scoring", 5) as advance:
        clock.now += 3.0
        advance(1)
        assert forecast.left == pytest.approx(12.0 + 10.0)
    # Done is done, whatever was announced.
    assert forecast.left == pytest.approx(10.0)
    assert forecast.estimates[0] == (4.0, 34.0)
    assert forecast.estimates[-1] == (23.0, 33.0)


def test_what_is_cut_to_fit_is_expected_to_fit(clock: Clock) -> None:
    forecast = Forecast(TimeBudget(100.0, clock), {"llama": 1.0})
    reached = [100.0]
    forecast.expect("reference", "llama", lambda: reached[0])
    forecast.expect("held-out", "llama", lambda: 1000, fills=True)
    with forecast.step("reference", "Scoring", 1000, unit=1.0) as advance:
        clock.now += 10.0
        advance(10)
        # 90 s more of this step, and none for the next.
        assert forecast.left == 90.0
        reached[0] = 20.0
        assert forecast.left == 10.0 + 80.0
    assert forecast.per_unit("held-out") == 1.0
    assert forecast.per_unit("other") == 0.0
    with forecast.step("held-out", "Scoring", 1000) as advance:
        clock.now += 10.0
        advance(10)
        assert forecast.left == 80.0
        clock.now += 95.0
        advance(500)
        assert forecast.left == 0.0


def test_what_is_not_cut_may_overrun(clock: Clock) -> None:
    forecast = Forecast(TimeBudget(10.0, clock), {"llama": 1.0})
    forecast.expect("quantize", "llama", lambda: 100)
    with forecast.step("quantize", "Scoring", 100) as advance:
        clock.now += 5.0
        advance(20)
        assert forecast.left == 20.0


def test_a_step_nobody_announced_is_not_measured(clock: Clock) -> None:
    forecast = Forecast(TimeBudget(None, clock), {"llama": 1.0})
    with forecast.step("extra", "Scoring", 2) as advance:
        clock.now += 10.0
        advance(2)
    assert forecast.left is None
    assert forecast.estimates == []


def test_cycles_end_before_the_time_does(clock: Clock) -> None:
    pace = Pace(TimeBudget(100.0, clock))
    cycles, taken = Cycles(pace, reserved=20.0, extra=lambda cycle: 15.0 if cycle % 4 == 0 else 0.0), 0
    while cycles.go_on(taken):
        clock.now += 6.0 + (15.0 if taken % 4 == 0 else 0.0)
        taken += 1
    # 21 + 3 x 6 + 21 = 60, then 6 + 6: the next would end at 78, within 80; the one after is a slow one by then or not.
    assert taken == 8
    assert pace.budget.elapsed <= 80.0


def test_the_first_cycles_take_place_in_any_case(clock: Clock) -> None:
    pace = Pace(TimeBudget(5.0, clock))
    cycles, taken = Cycles(pace), 0
    while cycles.go_on(taken):
        clock.now += 30.0
        taken += 1
    assert taken == LEAST_CYCLES


def test_what_is_affordable(clock: Clock) -> None:
    pace = Pace(TimeBudget(100.0, clock))
    assert [pace.affordable(seconds, 3) for seconds in (0.0, 1.0, 15.0, 34.0, 36.0)] == [3, 3, 2, 1, 0]
    assert pace.has_room(60.0, reserved=40.0)
    assert not pace.has_room(60.0, reserved=41.0)
    clock.now += 200.0
    assert pace.affordable(1.0, 3) == 0


def test_clock_text() -> None:
    assert [clock_text(seconds) for seconds in (0, 59.6, 245)] == ["0:00", "1:00", "4:05"]
