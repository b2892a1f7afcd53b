"""A time budget: long work is cut to fit it, and its end is told in advance.

Knows seconds and counts only; what is counted, and what a cut costs, is its user's business.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edge_behavior.util.progress import Advance, progress_bar

Clock = Callable[[], float]

# Cycles of rounds that take place in any case: fewer samples have no spread.
LEAST_CYCLES = 2
# Share of the time left that one scenario may take by itself.
LARGEST_SHARE = 0.35


class TimeBudget:
    """Seconds to spend, counted from its making.

    Args:
        seconds: In all; None for no limit.
        clock: Seconds from any start, as `time.monotonic`.
    """

    def __init__(self, seconds: float | None, clock: Clock = time.monotonic) -> None:
        self._seconds, self._clock, self._started = seconds, clock, clock()

    @property
    def elapsed(self) -> float:
        """Seconds since its making."""
        return self._clock() - self._started

    @property
    def seconds(self) -> float:
        """Seconds in all; infinite without a limit."""
        return math.inf if self._seconds is None else self._seconds

    @property
    def left(self) -> float:
        """Seconds left, negative once it is overrun; infinite without a limit."""
        return self.seconds - self.elapsed


@dataclass
class _Step:
    """Work under a rate: what is still to do and what was measured of it."""

    rate: str
    size: Callable[[], float]
    fills: bool = False
    done: float = 0.0
    seconds: float = 0.0
    ended: bool = False

    @property
    def todo(self) -> float:
        return 0.0 if self.ended else max(0.0, self.size() - self.done)


class Forecast:
    """Estimates the end of work in several steps from the rates measured so far.

    Steps of one `rate` are assumed to take as long per unit of work as the last one measured; `ratios` tell how steps
    of another rate compare before any of theirs is measured. Steps nobody announced are not in the estimate.

    Args:
        budget: What steps are cut to.
        ratios: By rate, how long a unit takes relative to the other rates' units.
    """

    def __init__(self, budget: TimeBudget, ratios: dict[str, float]) -> None:
        self.budget, self._ratios = budget, ratios
        self._steps: dict[str, _Step] = {}
        self._measured: dict[str, float] = {}
        # (seconds since the start, seconds then estimated in all), whenever a rate became known or a step ended.
        self.estimates: list[tuple[float, float]] = []

    def expect(self, name: str, rate: str, size: Callable[[], float], fills: bool = False) -> None:
        """Announce a step.

        Args:
            name: Of the step.
            rate: Steps of one rate take as long per unit of work.
            size: Units of work, which may become known only later.
            fills: Whether the step is cut to what the others leave of the budget.
        """
        self._steps[name] = _Step(rate, size, fills)

    def drop(self, name: str) -> None:
        """A step that does not take place after all."""
        self._steps.pop(name, None)

    @property
    def left(self) -> float | None:
        """Seconds left in all; None before anything was measured."""
        if not self._measured:
            return None
        total, filling = 0.0, 0.0
        for step in self._steps.values():
            seconds = step.todo * self._per_unit(step)
            if step.fills:
                filling += seconds
            else:
                total += seconds
        return total + min(filling, max(0.0, self.budget.left - total))

    @contextmanager
    def step(self, name: str, description: str, total: float, unit: float | None = None) -> Iterator[Advance]:
        """A bar for an announced step, with the time left in all at its end; its work is measured.

        Args:
            name: As it was announced; any other is shown, but not in the estimate.
            total: Units of the bar.
            unit: Work of one of them; by default all of them are the step's.
        """
        step = self._steps.get(name)
        if step is not None:
            # Done again, with another file.
            step.done, step.seconds, step.ended = 0.0, 0.0, False
        started = self.budget.elapsed
        with progress_bar(description, total) as bar:

            def advance(amount: float = 1, description: str | None = None, note: str | None = None) -> None:
                if step is not None:
                    was_known = step.done > 0
                    step.done += amount * (step.size() / max(total, 1) if unit is None else unit)
                    step.seconds = self.budget.elapsed - started
                    self._measured[step.rate] = step.seconds / max(step.done, 1e-9)
                    if not was_known:
                        self._note()
                bar(amount, description, self._text() if note is None else note)

            yield advance
        if step is not None:
            step.ended = True
            self._note()

    def per_unit(self, name: str) -> float:
        """Seconds that a unit of a step's work took or is expected to take; 0 of a step nobody announced."""
        return self._per_unit(self._steps[name]) if name in self._steps and self._measured else 0.0

    def _per_unit(self, step: _Step) -> float:
        if step.done:
            return step.seconds / step.done
        if step.rate in self._measured:
            return self._measured[step.rate]
        known, seconds = next(iter(self._measured.items()))
        return seconds * self._ratios[step.rate] / self._ratios[known]

    def _note(self) -> None:
        left = self.left
        if left is not None:
            elapsed = self.budget.elapsed
            self.estimates.append((round(elapsed, 1), round(elapsed + left, 1)))

    def _text(self) -> str:
        left = self.left
        return "" if left is None else f"{clock_text(left)} left in all"


def clock_text(seconds: float) -> str:
    """Minutes and seconds, like 4:05."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


class Pace:
    """Decides what is measured.

    Attributes:
        budget: The seconds to keep.
        cuts: What was left out or shortened, in words.
    """

    def __init__(self, budget: TimeBudget) -> None:
        self.budget = budget
        self.cuts: list[str] = []

    def cut(self, what: str) -> None:
        """Note what is missing."""
        self.cuts.append(what)

    def affordable(self, seconds: float, wanted: int) -> int:
        """How many of `wanted` runs of so many seconds may take place, within `LARGEST_SHARE` of the time left."""
        return wanted if seconds <= 0 else int(min(wanted, max(0.0, LARGEST_SHARE * self.budget.left) / seconds))

    def has_room(self, seconds: float, reserved: float = 0.0) -> bool:
        """Whether work of so many seconds ends in time, with some more kept for later."""
        return seconds + reserved <= self.budget.left


class Cycles:
    """Cycles of rounds, until the time is over.

    Args:
        pace: The time.
        reserved: Seconds that later work needs.
        extra: Seconds that a cycle takes beside what they all have in common: rare and long turns.
    """

    def __init__(self, pace: Pace, reserved: float = 0.0, extra: Callable[[int], float] = lambda cycle: 0.0) -> None:
        self._pace, self._reserved, self._extra = pace, reserved, extra
        self._longest, self._last = 0.0, pace.budget.elapsed

    def go_on(self, cycle: int) -> bool:
        """Whether the cycle may begin; asked once before each, from 0 on."""
        now = self._pace.budget.elapsed
        if cycle:
            self._longest = max(self._longest, now - self._last - self._extra(cycle - 1))
        self._last = now
        return cycle < LEAST_CYCLES or self._pace.has_room(self._longest + self._extra(cycle), self._reserved)
