"""Latency over time and by number of threads: session predictions without a pause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from time import perf_counter

from edge_behavior.bench.measurement import Slice, Sustained
from edge_behavior.bench.options import BenchOptions
from edge_behavior.bench.setup import Setup
from edge_behavior.bench.timing import Timing, percentile
from edge_behavior.errors import EdgebError

_SLICES = 10
_LEAST_SECONDS = 1.0


def check_seconds(seconds: float) -> None:
    """Refuse a time too short to say anything.

    Raises:
        EdgebError: less than a second.
    """
    if not seconds >= _LEAST_SECONDS:
        raise EdgebError(f"--sustained is {seconds:g}", f"use {_LEAST_SECONDS:g} or more seconds")


def sustained(
    bundle: Path, options: BenchOptions, seconds: float, tick: Callable[[float], None] = lambda passed: None
) -> Sustained:
    """Predict in one session as fast as it goes, for `seconds`, top 1 only.

    Args:
        tick: Called with the seconds passed since it was called last.

    Raises:
        EdgebError: less than a second, or the bundle does not load.
    """
    check_seconds(seconds)
    taken: list[tuple[float, float]] = []
    with Setup(bundle, options) as setup:
        scenario = setup.session(top_one_only=True)
        started = now = perf_counter()
        for i in count():
            if i and i % options.rounds == 0:
                # The diary is at its end.
                scenario.restart()
            sample = scenario.turn(i % options.rounds)["session"]
            before, now = now, perf_counter()
            taken.append((now - started, sample.ms))
            tick(now - before)
            if now - started >= seconds:
                break
    slices = _slices(taken, now - started)
    first, last = slices[0].p50_ms, slices[-1].p50_ms
    return Sustained(round(now - started, 1), len(taken), slices, round(last / first, 4) if first and last else None)


def threads_sweep(
    bundle: Path, options: BenchOptions, threads: Sequence[int], tick: Callable[[], None] = lambda: None
) -> dict[str, Timing]:
    """`session` (top 1) with several numbers of threads, one number after the other.

    They do not take turns: changing the size of the thread pool costs more than what is measured.

    Returns:
        By number of threads, as text.

    Raises:
        EdgebError: the bundle does not load.
    """
    found = {}
    for number in threads:
        with Setup(bundle, replace(options, threads=number)) as setup:
            scenario = setup.session(top_one_only=True)
            samples = []
            for i in range(options.repeats):
                samples.append(scenario.turn(i)["session"])
                tick()
        found[str(number)] = Timing.of(samples)
    return found


def _slices(taken: Sequence[tuple[float, float]], seconds: float) -> list[Slice]:
    slices = []
    for k in range(_SLICES):
        first, last = seconds * k / _SLICES, seconds * (k + 1) / _SLICES
        times = [ms for at, ms in taken if first < at <= last]
        slices.append(Slice(round(first, 2), percentile(times, 50) if times else None, len(times)))
    return slices
