"""Latency over time, and with other numbers of threads: session predictions without a pause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from edge_behavior.bench.scenarios import SessionScenario
from edge_behavior.bench.setup import BenchOptions, Setup
from edge_behavior.bench.timing import percentile, summary
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
) -> dict[str, Any]:
    """Predict in one session as fast as it goes, for `seconds`, top 1 only.

    Args:
        tick: Called with the seconds passed since it was called last.

    Returns:
        `seconds`, `predictions`, `slices` (ten equal spans of time: `from_s`, `p50_ms`, `predictions`) and `drift`
        (last slice's median over the first's; None where one of them has no prediction).

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
    return {"seconds": round(now - started, 1), "predictions": len(taken), **_slices(taken, now - started)}


def threads_sweep(
    bundle: Path, options: BenchOptions, threads: Sequence[int], tick: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """`session` (top 1) with several numbers of threads, one number after the other.

    They do not take turns: changing the size of the thread pool costs more than what is measured.

    Returns:
        Number of threads, as text, to the scenario's summary.

    Raises:
        EdgebError: the bundle does not load.
    """
    found = {}
    for number in threads:
        with Setup(bundle, replace(options, threads=number)) as setup:
            scenario: SessionScenario = setup.session(top_one_only=True)
            samples = []
            for i in range(options.repeats):
                samples.append(scenario.turn(i)["session"])
                tick()
        found[str(number)] = summary(samples)
    return found


def _slices(taken: Sequence[tuple[float, float]], seconds: float) -> dict[str, Any]:
    slices: list[dict[str, Any]] = []
    for k in range(_SLICES):
        first, last = seconds * k / _SLICES, seconds * (k + 1) / _SLICES
        times = [ms for at, ms in taken if first < at <= last]
        slices.append(
            {
                "from_s": round(first, 2),
                "p50_ms": percentile(times, 50) if times else None,
                "predictions": len(times),
            }
        )
    ends = slices[0]["p50_ms"], slices[-1]["p50_ms"]
    return {"slices": slices, "drift": round(ends[1] / ends[0], 4) if all(ends) else None}
