"""`edgeb train`: runs a recipe on a dataset, or plans to (`--dry-run`)."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer


def train_command(
    recipe: Annotated[
        str | None,
        typer.Option(help="Shipped recipe (such as tiny or qwen3-0.6b) or a YAML file. Default: qwen2-1.5b."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="plain, plain-weighted, two-stage or two-stage-v1. Default: the recipe's, else plain; docs/train.md "
            "says why."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder. Default: the last one made.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make. Default: runs/RECIPE-DATASET.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a recipe field: section.key=value; repeatable. With --resume: fields that no finished stage "
            "has read, and those of memory and logging.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run; finished stages are skipped.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count samples and steps, and estimate memory and time; train nothing.")
    ] = False,
    device_memory: Annotated[
        str | None, typer.Option(help="With --dry-run: plan for a GPU with this memory, for example 24GiB.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="With --dry-run: plan for this many processes. Default: as many as were started."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Tune a model on a dataset, by a recipe that names a backbone, and a method.

    Method plain, the default, is fine-tuning on all behaviors; two-stage is the paper's: A-Tuning on anchors (frequent
    behaviors), then B-Tuning on difficult, balanced samples. The run folder gets the resolved recipe, every stage's
    adapter (stock PEFT loads it), metrics.json, report.html, a model card and, of two stages, the preference pairs.

        edgeb train --recipe tiny --data data/synth --out runs/tiny

        edgeb train --recipe tiny --method two-stage --data data/synth --out runs/two-stage

        edgeb train --recipe qwen2-1.5b --data data/mine --out runs/mine --set lora.rank=16

        edgeb train --resume --out runs/mine --data data/mine

        edgeb train --resume --out runs/mine --data data/mine --set b_tuning.micro_batch_size=2

        edgeb train --recipe llama3.1-8b --data data/mine --dry-run --device-memory 24GiB
    """
    from edge_behavior.commands.imports import libraries
    from edge_behavior.commands.output import emit
    from edge_behavior.data.dataset import Dataset
    from edge_behavior.errors import EdgebError
    from edge_behavior.train.first_look import first_look
    from edge_behavior.util.cpus import wait_passively
    from edge_behavior.util.workspace import recall, remember

    data = data or recall("dataset")
    overrides = [*(set_ or ()), *([] if method is None else [f"method={method}"])]
    chosen = None
    if resume:
        if recipe is not None:
            raise EdgebError("--resume uses the run's own recipe", "leave out --recipe; --set changes single fields")
        from edge_behavior.train.run.folder import saved_recipe

        out = out or recall("run")
        loaded = saved_recipe(out, overrides)
    else:
        from edge_behavior.train.recipe import load_recipe

        name = recipe or "qwen2-1.5b"
        loaded = load_recipe(name, overrides)
        if loaded.method != load_recipe(name, overrides, default_method=None).method:
            chosen, talk = loaded.method, loaded.a_tuning
            if talk.aux_path is not None and talk.aux_ratio == 0:
                raise EdgebError(
                    f"a_tuning.aux_path is {talk.aux_path}, and method {chosen}, the default, reads no conversations",
                    "add --method two-stage, or leave the path out",
                )
        out = out or Path("runs") / f"{loaded.name}-{data.resolve().name}"
    if device_memory is not None and not dry_run:
        raise EdgebError("--device-memory is for planning", "add --dry-run")
    if processes is not None and not dry_run:
        raise EdgebError("--processes is for planning; a launcher such as torchrun starts them", "add --dry-run")
    wait_passively()
    # Before the libraries, which take seconds to import: a wrong path or backbone is reported at once.
    dataset = Dataset.open(data)
    if not resume:
        first_look(loaded.backbone)
    if dry_run:
        with libraries():
            from edge_behavior.train.plan.plan import plan
            from edge_behavior.train.trainer.processes import is_main

        _say_method(chosen)
        found = plan(loaded, dataset, device_memory, processes)
        if is_main():
            emit(found.document(), as_json, _print_plan)
        if found.refusal is not None:
            raise found.refusal
        return
    with libraries():
        from edge_behavior.train.pipeline import train
        from edge_behavior.train.run.metrics import read_metrics
        from edge_behavior.train.trainer.processes import is_main

    _say_method(chosen)
    # Some libraries print to stdout, which is for the result.
    with redirect_stdout(sys.stderr):
        run = train(loaded, dataset, out, resume, began=lambda: remember("run", out))
    if not is_main():
        return
    metrics = read_metrics(run)

    def show() -> None:
        from edge_behavior.evaluation.tables import one_tuned, results_table, stage_effect_table
        from edge_behavior.util.terminal import open_console

        console = open_console()
        two = loaded.b_tuning.method != "none"
        systems = metrics.systems if two else one_tuned(metrics.systems)
        for protocol in ("natural", "balanced"):
            console.print(results_table(systems, protocol))
        if two:
            console.print(stage_effect_table(metrics.models))
        console.print(f"report: {run.path / 'report.html'}")

    emit({"run": str(run.path), "metrics": metrics.to_dict()}, as_json, show)


def _say_method(chosen: str | None) -> None:
    """Say which method is taken, and why, where neither recipe nor flags name one."""
    from edge_behavior.train.methods import DEFAULT_REASON, METHODS
    from edge_behavior.train.trainer.processes import console

    if chosen is not None:
        summary = METHODS[chosen].summary
        why = f"the default: {DEFAULT_REASON} (docs/train.md, Methods; --method takes another)"
        console().print(f"method {chosen}, {summary}; {why}", highlight=False, soft_wrap=True)


def _print_plan(plan: dict[str, Any]) -> None:
    from edge_behavior.commands.plan_table import counts_table, memory_table, time_table
    from edge_behavior.util.terminal import open_console

    console = open_console()
    console.print(counts_table(plan))
    console.print(memory_table(plan["memory"]))
    if plan["time"]:
        console.print(time_table(plan["time"]))
        console.print(f"measured on {plan['time']['measured_on']}; every stage may stop early")
    elif plan["refusal"] is None:
        console.print("No time is given: it is measured on the device that trains.")
