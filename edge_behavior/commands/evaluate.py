"""`edgeb evaluate`: both protocols, for a run or a bundle, beside the simple counters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate_command(
    model: Annotated[Path, typer.Argument(help="Run folder or bundle.", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="Dataset folder. Default: the last one made.")] = None,
    protocol: Annotated[str, typer.Option(help="natural, balanced or both.")] = "both",
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    per_user: Annotated[int, typer.Option(help="Natural protocol: windows per user; 0 for all.")] = 20,
    per_behavior: Annotated[int, typer.Option(help="Balanced protocol: windows per behavior.")] = 500,
    limit: Annotated[int | None, typer.Option(help="At most this many windows per protocol.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of windows.")] = 0,
    untuned: Annotated[bool, typer.Option(help="A run: score the untuned backbone, too.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Measure a model on users (or later days) it was not trained on, beside the counters it has to beat.

    Scores are exact log-probabilities over the candidate set. Six metrics of the paper, with 95 % intervals over users;
    over groups or blocks of days where the dataset was split so, see docs/evaluate.md.
    A bundle is measured as model, as the user's habits and as both fused, also by how much of the user was seen; a
    calibrated one also by its calibration error, its likely sets and its suggestions.

        edgeb evaluate runs/tiny --data data/synth

        edgeb evaluate tiny.gguf --data data/synth --protocol natural --json
    """
    from edge_behavior.bundle.folder import MANIFEST_FILE
    from edge_behavior.commands.imports import libraries
    from edge_behavior.commands.output import emit
    from edge_behavior.evaluation.protocols import WindowChoice, other_dataset_note
    from edge_behavior.util.workspace import recall

    data = data or recall("dataset")
    choice = WindowChoice(per_user, per_behavior, limit, seed)
    if model.is_dir() and not (model / MANIFEST_FILE).is_file():
        with libraries():
            from edge_behavior.train.evaluate_run import evaluate_run

        results = evaluate_run(model, data, protocol, split, choice, untuned)
    else:
        from edge_behavior.evaluation.bundles import evaluate_bundle

        results = evaluate_bundle(model, data, protocol, split, choice)

    emit(results, as_json, lambda: _show(results))
    if not results["dataset"]["own"]:
        typer.echo(f"edgeb: {other_dataset_note(data, model)}", err=True)


def _show(results: dict[str, Any]) -> None:
    from edge_behavior.core.fusion import SOURCES
    from edge_behavior.evaluation.calibration_tables import calibration_table
    from edge_behavior.evaluation.protocols import PROTOCOLS
    from edge_behavior.evaluation.tables import history_table, results_table
    from edge_behavior.util.terminal import open_console

    console = open_console()
    shown = [name for name in PROTOCOLS if name in results]
    own = "model" if "source" not in results else f"bundle_{results['source']}"
    rows = {**results["baselines"], own: {name: results[name] for name in shown}}
    # A bundle's sources come last, in the same order whichever is the default.
    for name in (f"bundle_{source}" for source in SOURCES):
        if name in rows:
            rows[name] = rows.pop(name)
    for name in shown:
        console.print(results_table(rows, name))
        if "source" in results:
            console.print(history_table(results["by_history"][name], name), "")
            if results["calibration"] is not None:
                console.print(calibration_table(results["calibration"][name], name), "")
    if "source" in results:
        masked = results["masked_differs"]
        console.print(
            f"the bundle predicts with {results['source']} unless told otherwise; masked scoring names another first "
            f"candidate than exact scoring in {masked['share']:.1%} of {masked['windows']} windows"
        )
