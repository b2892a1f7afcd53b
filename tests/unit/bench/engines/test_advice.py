"""Which bundle to take."""

from __future__ import annotations

from edge_behavior.bench.engines.advice import choose
from tests.unit.bench.engines.tables import TRUTHS, row

FAST = [10.0 + i / 10 for i in range(20)]
SLOW = [ms * 2 for ms in FAST]
# Faster in half of the windows, slower in the others.
LEVEL = [ms * (0.9 if i % 2 else 1.2) for i, ms in enumerate(FAST)]


def test_the_fastest_of_the_accurate() -> None:
    name, why = choose([row("slow", SLOW), row("fast", FAST)], TRUTHS)
    assert name == "fast"
    assert "is the fastest, 10.9 ms, before slow with 21.9" in why


def test_a_sign_test_puts_the_inaccurate_out() -> None:
    # 5 of 5 differences are not yet significant (.0625), 6 of 6 are (.031).
    assert choose([row("right", SLOW), row("hasty", FAST, wrong=5)], TRUTHS)[0] == "hasty"
    name, why = choose([row("right", SLOW), row("hasty", FAST, wrong=6)], TRUTHS)
    assert name == "right"
    assert "out: hasty .700" in why
    assert "it is the only one" in why


def test_of_the_equally_fast_the_smallest() -> None:
    name, why = choose([row("large", FAST), row("small", LEVEL, size=10)], TRUTHS)
    assert name == "small"
    assert "cannot be told from that of large, and it is the smallest of these, 0.0 kB" in why
    # Also where it is the fastest itself.
    assert "cannot be told" in choose([row("large", LEVEL), row("small", FAST, size=10)], TRUTHS)[1]
    name, why = choose([row("large", FAST), row("small", SLOW, size=10)], TRUTHS)
    assert name == "large"
    assert "small is smaller, 0.0 kB instead of 1.0 kB" in why


def test_without_truth_speed_decides() -> None:
    name, why = choose([row("right", SLOW), row("hasty", FAST, wrong=20)], None)
    assert name == "hasty"
    assert "not known without --data" in why
