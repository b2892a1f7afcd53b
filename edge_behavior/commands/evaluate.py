"""`edgeb evaluate`: both protocols, for runs and bundles, beside the simple counters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_behavior.commands.open import AcceleratorOption, ChipOption

if TYPE_CHECKING:
    from edge_behavior.core.balance import Balance
    from edge_behavior.evaluation.comparison import Comparison
    from edge_behavior.evaluation.protocols import WindowChoice
    from edge_behavior.evaluation.results import Evaluation
    from edge_behavior.runtime.predictor import Predictor


def evaluate_command(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Run folder or bundle; several share a table.", show_default=False),
    ],
    data: Annotated[Path | None, typer.Option(help="Dataset folder. Default: the last one made.")] = None,
    protocol: Annotated[str, typer.Option(help="natural, balanced or both.")] = "both",
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    per_user: Annotated[int, typer.Option(min=0, help="Natural protocol: windows per user; 0 for all.")] = 20,
    per_behavior: Annotated[int, typer.Option(min=1, help="Balanced protocol: windows per behavior.")] = 500,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many windows per protocol.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed for choosing windows.")] = 0,
    untuned: Annotated[bool, typer.Option(help="For a run: also score the untuned backbone.")] = True,
    balance: Annotated[
        str,
        typer.Option(
            help="For bundles: raise rare behaviors as predict does, by 0 (right most often) to 2, or fitted."
        ),
    ] = "0",
    accelerator: AcceleratorOption = None,
    chip: ChipOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Measure a model on users (or later days) it was not trained on, beside the simple counters it has to beat.

    Candidates are ranked by their exact log-probabilities. Reports the paper's six metrics with 95 % intervals over
    users, or over groups or blocks of days if the dataset was split by them, see docs/evaluate.md. Of a bundle, the
    model, the user's habits and both fused are measured, also by how many of the user's events were seen; of a
    calibrated one also the calibration error, the prediction sets and the suggestions.

    Of several models, all their systems stand in one table. What a run's own evaluation has measured on just these
    windows is read from its metrics.json and not scored again.

        edgeb evaluate runs/tiny --data data/synth

        edgeb evaluate tiny.gguf --data data/synth --protocol natural --json

        edgeb evaluate tiny.gguf --data data/synth --balance fitted

        edgeb evaluate runs/tiny runs/plain tiny.gguf --data data/synth --per-user 10 --per-behavior 20
    """
    from edge_behavior.commands.open import open_predictor
    from edge_behavior.commands.output import emit
    from edge_behavior.core.balance import parse_balance
    from edge_behavior.errors import EdgebError
    from edge_behavior.evaluation.comparison import compare, distinct_names
    from edge_behavior.evaluation.protocols import WindowChoice, other_dataset_note
    from edge_behavior.runtime.accelerator import check_chip, chosen_accelerator
    from edge_behavior.train.stage_list import MODELS, UNTUNED
    from edge_behavior.util.workspace import recall

    asked = parse_balance(balance)
    data = data or recall("dataset")
    choice = WindowChoice(per_user, per_behavior, limit, seed)
    # One run shows its final model, a comparison what each stage did.
    unasked = {*(MODELS[1:-1] if len(models) == 1 else ()), *(() if untuned else (UNTUNED,))}
    stages = [stage for stage in MODELS if stage not in unasked]
    for flag, given in (
        ("--balance", asked != 0),
        ("--accelerator", accelerator is not None),
        ("--chip", chip is not None),
    ):
        if given:
            _require_bundles(models, flag)
    if len(models) > 1 and (absent := next((model for model in models if not model.exists()), None)):
        raise EdgebError(f"there is no {absent}", "check the path; nothing was scored yet")
    if accelerator is not None or chip is not None:
        for model in models:
            check_chip(chosen_accelerator(model, accelerator), chip)
    load = open_predictor if accelerator is None else partial(open_predictor, accelerator=accelerator, chip=chip)
    found = [_evaluated(model, data, protocol, split, choice, stages, load, asked) for model in models]
    if len(models) == 1:
        emit(found[0].to_dict(), as_json, lambda: _show(found[0]))
    else:
        together = compare(list(zip(distinct_names(models), found, strict=True)))
        emit(together.to_dict(), as_json, lambda: _show_comparison(together))
    for model, evaluation in zip(models, found, strict=True):
        if evaluation.recorded:
            typer.echo(f"edgeb: {model}: scored on these windows before, see {model / 'metrics.json'}", err=True)
        if not evaluation.dataset.own:
            typer.echo(f"edgeb: {other_dataset_note(data, model)}", err=True)


def _is_run(model: Path) -> bool:
    from edge_behavior.bundle.folder import MANIFEST_FILE

    return model.is_dir() and not (model / MANIFEST_FILE).is_file()


def _require_bundles(models: list[Path], flag: str) -> None:
    """Refuse run folders, before anything is scored: a run's metrics are those of its training."""
    from edge_behavior.errors import EdgebError

    run = next((model for model in models if _is_run(model)), None)
    if run is not None:
        raise EdgebError(f"{run} is a run folder, and {flag} is for bundles", "pass the bundle exported from it")


def _evaluated(
    model: Path,
    data: Path,
    protocol: str,
    split: str,
    choice: WindowChoice,
    stages: list[str],
    load: Callable[[Path], Predictor],
    balance: Balance,
) -> Evaluation:
    from edge_behavior.commands.imports import libraries

    if _is_run(model):
        with libraries():
            from edge_behavior.train.evaluate_run import evaluate_run

        return evaluate_run(model, data, protocol, split, choice, stages)
    from edge_behavior.evaluation.bundles import evaluate_bundle

    return evaluate_bundle(model, data, protocol, split, choice, load, balance)


def _show_comparison(together: Comparison) -> None:
    from edge_behavior.evaluation.tables import comparison_table
    from edge_behavior.util.terminal import open_console

    open_console().print(comparison_table(together.results))


def _show(found: Evaluation) -> None:
    from edge_behavior.core.fusion import SOURCES
    from edge_behavior.evaluation.calibration_tables import calibration_table
    from edge_behavior.evaluation.results import BundleEvaluation
    from edge_behavior.evaluation.tables import history_table, results_table
    from edge_behavior.util.terminal import open_console

    console = open_console()
    bundle = found if isinstance(found, BundleEvaluation) else None
    # What was asked about comes last; a bundle's sources in the same order whichever is its default.
    last = [found.subject] if bundle is None else [f"bundle_{source}" for source in SOURCES]
    names = sorted(found.results, key=lambda name: last.index(name) if name in last else -1)
    results = {name: found.results[name] for name in names}
    for protocol in found.protocols:
        console.print(results_table(results, protocol))
        if bundle is not None:
            console.print(history_table(bundle.by_history[protocol], protocol), "")
            if bundle.calibration is not None:
                console.print(calibration_table(bundle.calibration[protocol], protocol), "")
    if bundle is not None:
        if any(bundle.balance.values()):
            raised = ", ".join(f"{name} {value:g}" for name, value in bundle.balance.items())
            console.print(f"balance between frequent and rare behaviors: {raised}")
        masked = bundle.masked_differs
        if bundle.accelerator is not None:
            from edge_behavior.runtime.accelerator import in_words

            console.print(f"evaluated by LiteRT on the {in_words(bundle.accelerator)}")
        console.print(
            f"the bundle predicts with {bundle.source} unless told otherwise; masked scoring names another first "
            f"candidate than exact scoring in {masked.share:.1%} of {masked.windows} windows"
        )
