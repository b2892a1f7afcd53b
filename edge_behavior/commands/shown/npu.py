"""Chips that contexts are compiled for, and compiled contexts, for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_behavior.bundle.npu_folder import NpuFolder


def show_chips(chips: list[dict[str, Any]]) -> None:
    """The table of chips that contexts are compiled for."""
    from rich.table import Table

    from edge_behavior.util.terminal import open_console

    table = Table(title="chips for --npu", title_justify="left")
    for head in ("chip", "sold as", "architecture", "libraries of its own"):
        table.add_column(head)
    for chip in chips:
        table.add_row(chip["chip"], chip["sold_as"], chip["architecture"], "\n".join(chip["libraries"]))
    console = open_console()
    console.print(table)
    first = chips[0]
    console.print(f"compiled by {first['compiler']}; every phone needs {', '.join(first['libraries_of_all'])}")


def show_contexts(found: NpuFolder, folder: Path | None) -> None:
    """Contexts that an export compiled, and what the emulator said of them."""
    from edge_behavior.bundle.npu_folder import described
    from edge_behavior.util.numbers import file_size
    from edge_behavior.util.terminal import open_console

    console = open_console()
    versions = ", ".join(f"{name} {version}" for name, version in found.compiler.items())
    console.print(
        f"{folder}: {found.quantization} weights, calls of up to {found.size} tokens, compiled by {versions}",
        highlight=False,
    )
    for context in found.contexts:
        measured, said = context.parity, f"{described(context)}, {file_size(context.bytes)}"
        if measured is not None:
            from_model, from_cpu = measured["reference"], measured["cpu"]
            said += (
                f"; {measured['windows']} windows in {measured['calls']} calls, {measured['tokens']} "
                f"tokens: KL {from_model['mean_kl']:.2g} from "
                f"the trained model, {from_cpu['mean_kl']:.2g} from the CPU; largest difference of a label "
                f"{from_model['max_log_prob']:.2g} and {from_cpu['max_log_prob']:.2g}; other first candidates "
                f"{from_model['flips']:.0%} and {from_cpu['flips']:.0%}"
            )
        console.print(said, highlight=False)
