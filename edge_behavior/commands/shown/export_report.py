"""A finished export, and what it changed, for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from edge_behavior.export.report import ExportReport


def show_report(report: ExportReport) -> None:
    """What was written, what that changed, and what was fitted."""
    from edge_behavior.evaluation.balance_tables import balance_lines
    from edge_behavior.evaluation.calibration_tables import calibration_lines
    from edge_behavior.util.numbers import file_size
    from edge_behavior.util.terminal import open_console

    # GGUF files have typed tensors, ONNX folders operators that hold weights.
    counts, what = (report.tensor_types, "tensors") if report.operators is None else (report.operators, "operators")
    types = ", ".join(f"{count} {name}" for name, count in (counts or {}).items())
    console = open_console()
    console.print(f"{report.bundle}: {file_size(report.bytes)}, {report.architecture} {report.quantization}")
    console.print(f"{what}: {types}; {report.segments_checked} segments are tokenized as in training")
    for name, why in report.parity.tried.items():
        console.print(f"not {name}: {'; '.join(why)}")
    if report.parity.recovery is not None:
        kept = ", ".join(name.strip(".").removesuffix(".weight") for name in report.parity.recovery.kept)
        nothing = report.parity.recovery.skipped or "it did not help"
        console.print(f"kept at 8 bits for the tail: {kept or f'nothing, {nothing}'}", highlight=False)
    show_parity(report.parity.to_dict(), sys.stdout)
    plan = report.pruning.plan
    if plan is not None:
        console.print(f"vocabulary: {len(plan.kept)} of {plan.rows} tokens kept, {plan.places} places covered")
    if report.population.fitted:
        found = report.population.values
        lost = ", ".join(f"{count:,} of {level}" for level, count in found["dropped"].items())
        console.print(
            f"population: {found['contexts']:,} contexts of {found['users']:,} users, {file_size(found['bytes'])}"
            f"{f'; no room for contexts: {lost}' if lost else ''}",
            highlight=False,
        )
    habits = report.habits.values
    if report.habits.fitted:
        accuracies = ", ".join(
            f"{name} {habits['measured'][name]['accuracy']:.3f}" for name in ("model", "habits", "fused")
        )
        console.print(f"predicts with {habits['default']}; accuracy on validation windows: {accuracies}")
    default = habits.get("default", "model")
    if report.calibration.fitted:
        console.print(calibration_lines(report.calibration.values, [default]), highlight=False)
    if report.balance.fitted:
        console.print(balance_lines(report.balance.values, [default]), highlight=False)
    if report.npu is not None:
        from edge_behavior.commands.shown.npu import show_contexts

        show_contexts(report.npu, report.npu_folder)


def show_parity(parity: dict[str, Any], stream: TextIO) -> None:
    """The parity table; `parity` as manifests and `--json` have it."""
    from rich.table import Table

    from edge_behavior.util.terminal import open_console

    drawn = f"{parity['windows']} validation windows" if parity["held_out"] else "synthetic windows"
    table = Table(title=f"difference from the trained model, {drawn}", title_justify="left")
    for i, head in enumerate(("after", "flips", "KL", "max Δ log p", "accuracy", "head", "medium", "tail")):
        table.add_column(head, justify="right" if i else "left")
    groups = ("accuracy", "head", "medium", "tail")
    table.add_row("trained", "", "", "", *(_share(parity["reference"][name]) for name in groups))
    for name, row in parity["stages"].items():
        # Bundles written before 2026-11-28 do not say it: every step was compared on all windows.
        compared = row.get("windows", parity["windows"])
        table.add_row(
            name if compared == parity["windows"] else f"{name} ({compared} windows)",
            f"{row['flips']:.1%}",
            f"{row['mean_kl']:.2g}",
            f"{row['max_log_prob']:.2g}",
            *(_share(row[group]) for group in groups),
        )
    open_console(file=stream).print(table)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
