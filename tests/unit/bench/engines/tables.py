"""Tables made by hand: what is said of numbers, without measuring any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_behavior.bench.engines.contender import SCENARIOS
from edge_behavior.bench.engines.result import BundleRow, Cost, Table
from edge_behavior.bench.engines.statistics import Estimate, median_of, share_of
from edge_behavior.bench.engines.work import Work
from edge_behavior.bench.measurement import Budget
from edge_behavior.bench.timing import Machine

HERE = Machine("Linux", "an abacus", 2, 1 << 30, 2, "3.11.0", "0.3.36", "AVX2 = 1", None, [0.5, 0.4, 0.3])
TRUTHS = [0, 1, 2, 3] * 5


def cost(times: Sequence[float], reference: Sequence[float], over_bare: float = 1.05) -> Cost:
    bare = [ms / over_bare for ms in times]
    ratios = median_of([mine / theirs for mine, theirs in zip(times, reference, strict=True)])
    over = Estimate(over_bare, over_bare, over_bare)
    return Cost(median_of(times), ratios, median_of(bare), over, 14.0, 1.0, 2.0, times, bare)


def row(
    name: str,
    session: Sequence[float],
    reference: Sequence[float] | None = None,
    wrong: int = 0,
    size: int = 1000,
    over_bare: Mapping[str, float] | None = None,
) -> BundleRow:
    """A bundle that is wrong in its first windows; its other scenarios take as long as a session."""
    firsts = [9] * wrong + TRUTHS[wrong:]
    over = over_bare or {}
    costs = {each: cost(session, reference or session, over.get(each, 1.05)) for each in SCENARIOS}
    right = share_of(len(TRUTHS) - wrong, len(TRUTHS))
    return BundleRow(
        name, "engine 1", "Q8_0", size, 50 << 20, 90.0, right, 0, 0, share_of(1, 1), 0.0, Work(1, 1, 1), costs, firsts
    )


def table(rows: Sequence[BundleRow], reference: str) -> Table:
    return Table(
        "qwen2", 37, "stream", 20, "exact", len(TRUTHS), "dataset", reference, rows, [], None, "Take the best.", [],
        HERE, Budget(300.0, 20.0, []),
    )  # fmt: skip
