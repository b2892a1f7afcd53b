"""Which bundle of a table to take, in words that say what decided.

First accuracy: out are those that a sign test tells from the most accurate one. Then a session's prediction, what an
app waits for again and again: of those as fast as the fastest, the one that is smallest on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_behavior.bench.engines.result import BundleRow
from edge_behavior.bench.engines.statistics import median_of, sign_test
from edge_behavior.util.numbers import file_size, number, significant

_SIGNIFICANT = 0.05
WAITED_FOR = "session"


def choose(rows: Sequence[BundleRow], truths: Sequence[int] | None) -> tuple[str, str]:
    """The name of the bundle to take, and why.

    Args:
        rows: At least one bundle.
        truths: What happened in each window; None where that is made up, and accuracy decides nothing.
    """
    fit, best = list(rows), rows[0]
    if truths is not None:
        best = max(rows, key=lambda row: _right(row, truths))
        fit = [row for row in rows if not _is_worse(row, best, truths)]
    fastest = min(fit, key=lambda row: row.costs[WAITED_FOR].ms.value)
    level = [row for row in fit if _is_level(row, fastest)]
    chosen = min(level, key=lambda row: row.bytes)
    parts = [f"Take {chosen.name}:"]
    if truths is None:
        parts.append("of all bundles (their accuracy is not known without --data),")
    elif len(fit) == len(rows):
        parts.append(f"no bundle's accuracy can be told from the best's ({_share(best)}) on these windows, and")
    else:
        out = ", ".join(f"{row.name} {_share(row)}" for row in rows if row not in fit)
        parts.append(f"of those not less accurate than {best.name} ({_share(best)}; out: {out}),")
    took = f"{significant(chosen.costs[WAITED_FOR].ms.value)} ms"
    if len(rows) == 1 or len(fit) == 1:
        parts.append(f"it is the only one; a session's prediction takes {took}")
    elif chosen is not fastest:
        parts.append(
            f"its session's prediction ({took}) cannot be told from the fastest's, {fastest.name}, and it is the "
            f"smallest of those, {file_size(chosen.bytes)}"
        )
    else:
        parts.append(f"its session's prediction is the fastest, {took}, {_beside(chosen, fit)}")
    return chosen.name, " ".join(parts) + "."


def _beside(chosen: BundleRow, fit: Sequence[BundleRow]) -> str:
    """How the next fastest compares, and the smallest."""
    others = sorted((row for row in fit if row is not chosen), key=lambda row: row.costs[WAITED_FOR].ms.value)
    text = f"before {others[0].name} with {significant(others[0].costs[WAITED_FOR].ms.value)}"
    smallest = min(fit, key=lambda row: row.bytes)
    if smallest is not chosen:
        text += f"; {smallest.name} is smaller, {file_size(smallest.bytes)} instead of {file_size(chosen.bytes)}"
    return text


def _right(row: BundleRow, truths: Sequence[int]) -> int:
    return sum(first == truth for first, truth in zip(row.firsts, truths, strict=True))


def _is_worse(row: BundleRow, best: BundleRow, truths: Sequence[int]) -> bool:
    pairs = list(zip(row.firsts, best.firsts, truths, strict=True))
    gained = sum(first == truth != other for first, other, truth in pairs)
    lost = sum(other == truth != first for first, other, truth in pairs)
    return gained < lost and sign_test(gained, lost) < _SIGNIFICANT


def _is_level(row: BundleRow, fastest: BundleRow) -> bool:
    """Whether the interval of its times over the fastest's, window by window, holds 1."""
    times = zip(row.costs[WAITED_FOR].samples_ms, fastest.costs[WAITED_FOR].samples_ms, strict=True)
    return median_of([mine / theirs for mine, theirs in times]).low <= 1


def _share(row: BundleRow) -> str:
    return "–" if row.accuracy is None else number(row.accuracy.value)
