"""The results as a Markdown page, and the lines that docs/engines.md has of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines.goals import Goal
from benchmarks.engines.litert_lm import FAULT, NAME
from edge_behavior.bench.engines.report import markdown
from edge_behavior.bench.engines.result import BundleRow, Table
from edge_behavior.errors import EdgebError
from edge_behavior.util.files import write_file
from edge_behavior.util.markdown import markdown_table
from edge_behavior.util.numbers import NONE, file_size, number, significant

_MET = {True: "met", False: "**missed**", None: "not measured"}
_BEGIN, _END = "<!-- benchmarks.engines: begin -->", "<!-- benchmarks.engines: end -->"
_DOC_COLUMNS = 100
_WITHOUT_AMX = (
    "This CPU has AMX, which was refused to every engine (`python -m benchmarks.without_amx`): all use AVX-512."
)
_MIB = 2**20


def page(
    name: str,
    table: Table,
    goals: Sequence[Goal],
    exports: Mapping[str, Mapping[str, Any]],
    notes: Sequence[str],
    without_amx: bool,
) -> str:
    """The whole page.

    Args:
        name: Of the results.
        table: The bundles side by side.
        goals: Held against the table.
        exports: What the export said, by bundle's file name.
        notes: What was not measured.
        without_amx: Whether the CPU has AMX, and no engine could use it.
    """
    parts = [
        f"# Engines side by side: {name}",
        "`python -m benchmarks.engines`; docs/operate.md says how everything is measured. Not measured: ARM, a phone, "
        "a real GPU." + (f" {_WITHOUT_AMX}" if without_amx else ""),
        "## Which to take",
        which_to_take(table),
        "## Goals",
        "\n".join(markdown_table(("goal", "limit", "measured", ""), [_goal(goal) for goal in goals])),
        "## The table",
        markdown(table).rstrip(),
    ]
    if any(peer.name.startswith(NAME) for peer in table.peers):
        parts.append(FAULT)
    rows = [_export(file, report) for file, report in exports.items() if report]
    if rows:
        heads = ("bundle", "windows", "other first", "KL, nats", "accuracy", "before")
        parts += [
            "## What each format changed",
            "The export's parity gate, against the trained model before merging, on validation windows.",
            "\n".join(markdown_table(heads, rows)),
        ]
    parts += [f"Not there: {note}." for note in notes]
    for when, load in (("began", table.machine.load_average), ("ended", table.machine.load_average_after)):
        if load is not None:
            parts.append(f"Load average when it {when}: {', '.join(f'{value:.2f}' for value in load)}.")
    return "\n\n".join(parts) + "\n"


def which_to_take(table: Table) -> str:
    """The bundle that is best at each thing an app may need, and the advice."""
    wishes: list[tuple[str, Callable[[BundleRow], float], Callable[[BundleRow], str]]] = [
        ("a session's next prediction", *_time("session")),
        ("a prediction from an empty cache", *_time("empty")),
        ("all candidates with their probabilities", *_time("all")),
        ("the smallest file", lambda row: row.bytes, lambda row: file_size(row.bytes)),
        ("the least memory", lambda row: row.resident_bytes, lambda row: f"{row.resident_bytes / _MIB:,.0f} MiB"),
    ]
    if all(row.accuracy is not None for row in table.bundles):
        wishes.append(("accuracy on these windows", _wrong, lambda row: number(1 - _wrong(row))))
    rows = []
    for wish, value, shown in wishes:
        first, *others = sorted(table.bundles, key=value)
        level = [row.name for row in others if value(row) == value(first)]
        beside = ", ".join(f"{row.name} {shown(row)}" for row in others if row.name not in level)
        rows.append((wish, ", ".join([first.name, *level]), shown(first), beside))
    return "\n".join([table.advice, "", *markdown_table(("what counts", "best", "", "others"), rows, left=4)])


def update_docs(doc: Path, name: str, table: Table) -> None:
    """Replace the lines between the marks of docs/engines.md.

    Raises:
        EdgebError: the page has no marks.
    """
    text = doc.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise EdgebError(f"{doc} has no marks", f"put {_BEGIN} and {_END} into it")
    where = f"[{name}](../benchmarks/results/engines-{name}.md)"
    machine = f"On {table.machine.processor}, {table.machine.threads} threads, {table.windows} windows of {where}:"
    bundles = sorted(table.bundles, key=lambda row: row.costs["session"].ms.value)
    rows = [
        (
            row.name,
            *(significant(row.costs[scenario].ms.value) for scenario in ("session", "empty", "all")),
            file_size(row.bytes),
            f"{row.resident_bytes / _MIB:,.0f}",
            NONE if row.accuracy is None else number(row.accuracy.value),
        )
        for row in bundles
    ]
    heads = ("bundle", "session, ms", "empty cache", "all", "file", "MiB", "accuracy")
    lines = [_wrapped(machine), "", *markdown_table(heads, rows), "", _wrapped(table.advice)]
    write_file(doc, "\n".join([before + begin, *lines, end + after]), replace=True)


def _time(scenario: str) -> tuple[Callable[[BundleRow], float], Callable[[BundleRow], str]]:
    def value(row: BundleRow) -> float:
        return row.costs[scenario].ms.value

    return value, lambda row: f"{significant(value(row))} ms"


def _wrong(row: BundleRow) -> float:
    assert row.accuracy is not None
    return 1 - row.accuracy.value


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _DOC_COLUMNS, break_long_words=False, break_on_hyphens=False)


def _goal(goal: Goal) -> tuple[str, ...]:
    limit, shown = (NONE if value is None else f"{value:.3f}" for value in (goal.limit, goal.measured))
    return goal.what, f"{'≤' if goal.at_most else '≥'} {limit}", shown, _MET[goal.met]


def _export(file: str, report: Mapping[str, Any]) -> tuple[str, ...]:
    parity = report["parity"]
    last = list(parity["stages"].values())[-1]
    return (
        file,
        str(parity["windows"]),
        f"{last['flips']:.1%}",
        f"{last['mean_kl']:.2g}",
        number(last["accuracy"]),
        number(parity["reference"]["accuracy"]),
    )
