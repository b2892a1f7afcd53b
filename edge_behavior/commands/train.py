"""`edgeb train`: the two-stage recipe on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_command(
    recipe: Annotated[
        str | None,
        typer.Option(help="Shipped recipe (tiny, qwen2-1.5b, llama3.1-8b) or a YAML file. Default: qwen2-1.5b."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder. Default: the last one made.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make. Default: runs/RECIPE-DATASET.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a recipe field: section.key=value. May be repeated."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run; finished stages are skipped.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count samples, tokens and steps; train nothing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Tune a model on a dataset: A-Tuning on anchors, then B-Tuning on difficult, balanced samples.

    The run folder gets the resolved recipe, both adapters (stock PEFT loads them), metrics.json, the selected pairs,
    report.html and a model card.

        edgeb train --recipe tiny --data data/synth --out runs/tiny

        edgeb train --recipe qwen2-1.5b --data data/mine --out runs/mine --set lora.rank=16

        edgeb train --resume --out runs/mine --data data/mine
    """
    from edge_behavior.commands.output import emit
    from edge_behavior.errors import EdgebError
    from edge_behavior.recipes import load_recipe
    from edge_behavior.workspace import recall, remember

    data = data or recall("dataset")
    if resume:
        if recipe is not None or set_:
            raise EdgebError("--resume takes the run's own recipe", "leave out --recipe and --set")
        from edge_behavior.runs import saved_recipe

        out = out or recall("run")
        loaded = load_recipe(str(saved_recipe(out)))
    else:
        name = recipe or "qwen2-1.5b"
        loaded = load_recipe(name, set_ or ())
        out = out or Path("runs") / f"{loaded.name}-{data.resolve().name}"
    if dry_run:
        from edge_behavior.train.plan import plan

        emit(plan(loaded, data), as_json, _print_plan)
        return
    from edge_behavior.train.pipeline import metrics_of, train
    from edge_behavior.train.processes import is_main

    run = train(loaded, data, out, resume, began=lambda: remember("run", out))
    if not is_main():
        return
    metrics = metrics_of(run)

    def show() -> None:
        from rich.console import Console

        from edge_behavior.tables import results_table, stage_effect_table

        console = Console()
        for protocol in ("natural", "balanced"):
            console.print(results_table({**metrics["counters"], **metrics["models"]}, protocol))
        console.print(stage_effect_table(metrics))
        console.print(f"report: {run.path / 'report.html'}")

    emit({"run": str(run.path), "metrics": metrics}, as_json, show)


def _print_plan(plan: dict[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("quantity", "value", title="what this run would do")
    for key, value in plan.items():
        table.add_row(key.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table)
