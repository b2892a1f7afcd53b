"""`edgeb relabel`: give a bundle another candidate list, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_FITS = {
    "habits": "the habits' settings and fusion weights",
    "population": "the population's table",
    "balance": "the fitted balance",
    "calibration": "the calibration",
}


def relabel_command(
    bundle: Annotated[Path, typer.Argument(help="Bundle made by `edgeb export`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Bundle to write.", show_default=False)],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="The new list: one label per line, or .json with a list or an object of label: count. "
            "Default: the bundle's own.",
            show_default=False,
        ),
    ] = None,
    add: Annotated[list[str] | None, typer.Option(help="Append a label; may be repeated.", show_default=False)] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Remove a label; may be repeated.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at the output path.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Give a bundle another candidate list: same weights, no training.

    Labels that stay keep their training counts, also in the population's table; new ones start at 0. Habits' settings,
    fusion weights and the fitted balance stay. Evaluation and calibration belong to the old list and are dropped;
    nothing is fitted anew.

        edgeb relabel tiny.gguf --labels labels.txt --out mine.gguf

        edgeb relabel tiny.gguf --add "Water plants" --drop Gaming --out mine.gguf
    """
    from edge_behavior.bundle.bundle import read_manifest
    from edge_behavior.commands.output import emit
    from edge_behavior.errors import EdgebError
    from edge_behavior.export.relabel import new_candidates, read_labels, relabel_bundle

    if labels is None and not add and not drop:
        raise EdgebError("no change was asked for", "pass --labels, --add or --drop")
    listed = read_labels(labels) if labels is not None else None
    candidates = new_candidates(read_manifest(bundle).candidates, listed, add or [], drop or [])
    emit(relabel_bundle(bundle, candidates, out, force).to_dict(), as_json, _show_report)


def _show_report(report: dict[str, Any]) -> None:
    from edge_behavior.util.numbers import file_size
    from edge_behavior.util.terminal import open_console

    console = open_console()
    dropped, added = report["dropped"], report["added"]
    console.print(
        f"{report['bundle']}: {report['labels']} labels, {report['kept']} kept, {len(added)} new, "
        f"{len(dropped)} dropped; {file_size(report['bytes'])}"
    )
    for entry in added:
        console.print(f"  + {entry['label']}: {entry['tokens']} tokens, terminator included")
    if dropped:
        console.print(f"  - {', '.join(dropped)}")
    if added and report["pruned_vocabulary"]:
        console.print("The vocabulary was pruned for the old labels: new ones may take more tokens than usual.")
    if report["listed_in_prompt"]:
        console.print("The prompt lists the candidates, so the old labels' probabilities change slightly, too.")
    for outcome in ("kept", "dropped"):
        names = [_FITS[name] for name, became in report["fits"].items() if became == outcome]
        if names:
            console.print(f"{outcome}: {', '.join(names)}")
    if report["population"] is not None:
        before, after = report["population"]
        console.print(
            f"The population's table keeps {after:,} of {before:,} contexts: the counts of the labels that stay."
        )
    if report["fits"]["calibration"] == "dropped":
        console.print("Probabilities are the model's own; only `edgeb export` fits a calibration anew.")
    console.print("The evaluation was dropped; `edgeb evaluate` needs a dataset with exactly the new labels.")
