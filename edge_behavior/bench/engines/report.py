"""A table of bundles for the terminal and for a Markdown file."""

from __future__ import annotations

from edge_behavior.bench.engines.machine import MachineLimits
from edge_behavior.bench.engines.result import BundleRow, Cost, Table
from edge_behavior.bench.engines.statistics import Estimate
from edge_behavior.bench.report import Grid, grid_markdown
from edge_behavior.util.numbers import NONE, file_size, number, significant

TITLES = {
    "empty": "first of {k}, empty cache",
    "static": "first of {k}, static part held",
    "session": "first of {k}, session: {n} new tokens",
    "all": "all {k}, empty cache",
}
_MIB = 2**20


def grids(table: Table) -> list[Grid]:
    """Everything that was measured, as tables."""
    made = [_times(table), _bundles(table), _floors(table)]
    return [*made, _peers(table)] if table.peers else made


def heading(table: Table) -> str:
    """What was measured, in a line."""
    source = {"dataset": "of test users", "history": "of one history", "synthetic": "made up"}[table.source]
    return (
        f"{len(table.bundles)} bundles, {table.architecture}: {table.candidates} candidates, {table.layout} layout, "
        f"{table.windows} windows {source}"
    )


def footing(table: Table) -> str:
    """Where and how it was measured, in a line."""
    machine = table.machine
    threads = f"{machine.threads} thread{'' if machine.threads == 1 else 's'}"
    engines = ", ".join(dict.fromkeys(row.engine for row in table.bundles))
    return f"{machine.processor}, {machine.cores} cores, {threads}; {engines}; {table.scoring} scoring"


def remarks(table: Table) -> list[str]:
    """The advice, what the machine can do, and what is missing, in lines."""
    lines = [table.advice]
    if table.limits is not None:
        lines.append(limits_text(table.limits))
    if table.budget.cut:
        lines.append(f"cut to {table.budget.seconds:g} s: {', '.join(table.budget.cut)}")
    return [*lines, *table.notes]


def limits_text(limits: MachineLimits) -> str:
    """What the machine can do at best, in a line."""
    threads = f"{limits.threads} thread{'' if limits.threads == 1 else 's'}"
    peaks = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in limits.multiply_adds.items())
    return (
        f"This machine at best, {threads} of torch {limits.torch}: {limits.read_bytes / 1e9:.1f} GB/s "
        f"read; thousand million multiply-adds per second: {peaks}."
    )


def markdown(table: Table) -> str:
    """The tables as Markdown."""
    parts = [f"### {heading(table)}", footing(table)]
    parts += [grid_markdown(grid) for grid in grids(table)]
    return "\n\n".join([*parts, *remarks(table)]) + "\n"


def title_of(table: Table, scenario: str) -> str:
    """A scenario in words."""
    tokens = table.bundle(table.reference).costs[scenario].tokens
    return TITLES[scenario].format(k=table.candidates, n=f"{tokens:.0f}")


def _times(table: Table) -> Grid:
    heads = ("bundle", *(title_of(table, scenario) for scenario in TITLES))
    rows = []
    for row in table.bundles:
        cells = [_cell(row.costs[scenario], row.name == table.reference) for scenario in TITLES]
        rows.append((row.name, *cells))
    title = f"ms per prediction: median (its 95 % interval), times {table.reference}'s on the same windows"
    return Grid(title, heads, rows)


def _cell(cost: Cost, is_reference: bool) -> str:
    shown = _interval(cost.ms)
    return shown if is_reference else f"{shown} {cost.over_reference.value:.2f}×"


def _interval(held: Estimate) -> str:
    return f"{significant(held.value)} ({significant(held.low)}–{significant(held.high)})"


def _bundles(table: Table) -> Grid:
    heads = (
        "bundle", "engine", "type", "on disk", "resident MiB", "cold start, ms", "accuracy",
        "same first", "KL, nats",
    )  # fmt: skip
    title = f"the model's own answers: accuracy, first candidate and KL as {table.reference} has them"
    return Grid(title, heads, [_bundle(row) for row in table.bundles])


def _bundle(row: BundleRow) -> tuple[str, ...]:
    accuracy = NONE
    if row.accuracy is not None:
        accuracy = f"{number(row.accuracy.value)} ({number(row.accuracy.low, 2)}–{number(row.accuracy.high, 2)})"
    return (
        row.name,
        row.engine,
        row.quantization,
        file_size(row.bytes),
        f"{row.resident_bytes / _MIB:,.0f}",
        significant(row.cold_ms),
        accuracy,
        f"{row.agreement.value:.0%}",
        f"{row.divergence:.2g}",
    )


def _floors(table: Table) -> Grid:
    heads = (
        "bundle", "scenario", "tokens", "ms", "same calls bare, ms", "ratio", "weights read once, ms",
        "multiply-adds, ms", "times the larger",
    )  # fmt: skip
    rows = []
    for row in table.bundles:
        for scenario in TITLES:
            cost = row.costs[scenario]
            over = cost.over_bare
            rows.append(
                (
                    row.name,
                    scenario,
                    f"{cost.tokens:.0f}",
                    significant(cost.ms.value),
                    significant(cost.bare_ms.value),
                    f"{over.value:.2f} ({over.low:.2f}–{over.high:.2f})",
                    significant(cost.reading_ms),
                    significant(cost.multiplying_ms),
                    NONE if cost.over_best is None else f"{cost.over_best:.1f}",
                )
            )
    return Grid("the floor: the engine's same calls alone, and what this machine could do at best", heads, rows)


def _peers(table: Table) -> Grid:
    rows = [
        (
            peer.name,
            peer.on,
            peer.scenario,
            _interval(peer.ms),
            f"{peer.over_reference.value:.1f}×",
            NONE if peer.agreement is None else f"{peer.agreement.value:.0%}",
            str(peer.predictions),
        )
        for peer in table.peers
    ]
    heads = ("other ways", "on", "in place of", "ms", "times", "same first", "n")
    return Grid(f"other ways to an answer from the same weights, times what {table.reference} takes", heads, rows)
