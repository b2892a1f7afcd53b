"""`edgeb ablate`: ablations and sweeps over seeds, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_behavior.studies.ablation.folder import AblationFolder, Asked
    from edge_behavior.studies.ablation.studies import Plan
    from edge_behavior.studies.ablation.summary import AblationSummary
    from edge_behavior.studies.runs.runner import PlannedWork

_SOME_FAILED = 1


def ablate_command(
    recipe: Annotated[
        str | None,
        typer.Option(help="Shipped recipe or YAML file to vary. Default: the recipe of the ablation in --out."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="As in `edgeb train`. Default: the recipe's, else two-stage, whose parts vary.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder. Default: the ablation's, else the last one made.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the ablation; an existing one is continued.")] = Path("ablation"),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field of the recipe: section.key=value. May be repeated."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds per variant, counted up from the recipe's own. Default: 5.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Run only this study. May be repeated. Default: all.")
    ] = None,
    aux: Annotated[
        list[str] | None,
        typer.Option("--aux", help="NAME=FILE, conversations for study aux_data. May be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and count the stages to train; run nothing.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Only write the report of the runs so far.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Run the paper's ablations and sweeps of a recipe over several seeds; report means with 95 % intervals.

    Studies: components, targets, aux_ratio, anchor_threshold, samples_per_behavior, difficulty_weight, confusion,
    method, layout, and aux_data with --aux. Every run is a run folder under OUT/runs. Call again to continue: finished
    runs are skipped, an interrupted one is resumed. Stages that runs have in common are trained once.

        edgeb ablate --recipe tiny --data data/synth --out ablation --only components --seeds 3

        edgeb ablate --out ablation --report

    Exit code 1: a run failed; the others went on, and the report names it.
    """
    from edge_behavior.commands.imports import libraries
    from edge_behavior.errors import EdgebError
    from edge_behavior.studies.ablation.folder import AblationFolder
    from edge_behavior.util.cpus import wait_passively

    wait_passively()
    folder = AblationFolder(out)
    if report:
        if recipe is not None or method is not None or set_ or dry_run:
            hint = "leave out --recipe, --method, --set and --dry-run"
            raise EdgebError("--report takes what the folder has", hint)
        _report(folder, as_json)
        return
    overrides = [*(set_ or ()), *([] if method is None else [f"method={method}"])]
    asked, studies = _asked(folder, recipe, data, overrides, seeds, only or [], aux or [], pin=not dry_run)
    plan = asked.plan(studies, asked.seeds)
    with libraries():
        from edge_behavior.studies.runs.runner import planned_work, run_plan

    if dry_run:
        _dry_run(plan, planned_work(plan.runs, asked.fingerprint, folder), folder, as_json)
        return
    folder.ask(asked)
    failed = run_plan(plan.runs, asked.dataset, folder, "edgeb ablate")
    _report(folder, as_json)
    if failed:
        raise typer.Exit(_SOME_FAILED)


def _asked(
    folder: AblationFolder,
    recipe: str | None,
    data: Path | None,
    overrides: list[str],
    seeds: int | None,
    only: list[str],
    aux: list[str],
    pin: bool,
) -> tuple[Asked, list[str]]:
    """What this call asks for, flags that were left out taken from the folder; and the studies to run now."""
    from edge_behavior.commands.imports import libraries
    from edge_behavior.data.dataset import Dataset
    from edge_behavior.errors import EdgebError
    from edge_behavior.studies.ablation.folder import Asked
    from edge_behavior.studies.ablation.studies import DEFAULT_SEEDS, all_studies, auxiliary_files, chosen
    from edge_behavior.train.recipe import load_recipe
    from edge_behavior.util.workspace import recall

    before = folder.read() if folder.started else None
    if recipe is None and (before is None or overrides):
        if before is not None:
            raise EdgebError(
                "--set or --method without --recipe", f"name the recipe, or use that of {folder.path} as it is"
            )
        raise EdgebError("no recipe was given", "pass --recipe, for example --recipe tiny")
    base = load_recipe(recipe, overrides, "two-stage") if recipe is not None else before.recipe  # type: ignore[union-attr]
    path = data or (before.dataset if before is not None else recall("dataset"))
    fingerprint = Dataset.open(path).fingerprint
    with libraries():
        from edge_behavior.train.run.inputs import located, pinned
    base = pinned(base) if pin else located(base)
    given = {name: str(Path(file).resolve()) for name, file in auxiliary_files(aux).items()}
    missing = next((name for name, file in given.items() if not Path(file).is_file()), None)
    if missing is not None:
        raise EdgebError(f"--aux {missing}: there is no file {given[missing]}", "write --aux NAME=FILE")
    auxiliary = {**(dict(before.auxiliary) if before is not None else {}), **given}
    # Continuing without --only means the studies that were asked for before.
    names = only or (list(before.studies) if before is not None and not aux else [])
    studies = [study.name for study in chosen(all_studies(auxiliary), names)]
    count = seeds or (len(before.seeds) if before is not None else DEFAULT_SEEDS)
    wanted = tuple(range(base.seed, base.seed + count))
    return Asked(base, path.resolve(), fingerprint, tuple(studies), wanted, auxiliary), studies


def _dry_run(plan: Plan, work: PlannedWork, folder: AblationFolder, as_json: bool) -> None:
    from edge_behavior.commands.output import emit

    finished = {run.name: folder.finished(run.name) for run in plan.runs}
    document = {
        **work.to_dict(),
        "studies": [study.name for study in plan.studies],
        "seeds": list(plan.seeds),
        "list": [{"run": run.name, "seed": run.seed, "finished": finished[run.name]} for run in plan.runs],
    }
    emit(document, as_json, lambda: _show_plan(work, finished))


def _show_plan(work: PlannedWork, finished: dict[str, bool]) -> None:
    from rich.table import Table

    from edge_behavior.util.terminal import open_console

    console = open_console()
    for name, done in finished.items():
        console.print(f"{name}: done" if done else name, highlight=False)
    table = Table("stage", "to train", "without sharing", title=f"{work.runs} runs, {work.finished} done")
    for stage, counted in work.stages.items():
        table.add_row(stage, str(counted.left), str(counted.unshared))
    console.print(table)


def _report(folder: AblationFolder, as_json: bool) -> None:
    """Write the report, and show its tables."""
    from edge_behavior.commands.output import emit
    from edge_behavior.studies.ablation.report import write_ablation

    summary = write_ablation(folder)
    emit(summary.to_dict(), as_json, lambda: _show(summary, folder))


def _show(summary: AblationSummary, folder: AblationFolder) -> None:
    from rich.table import Table

    from edge_behavior.studies.ablation.texts import columns, interval_sentence, state_sentences, value_rows
    from edge_behavior.util.terminal import open_console

    console = open_console()
    for study in summary.studies:
        table = Table("", *columns(), title=f"{study.title}, balanced windows", box=None, title_justify="left")
        for row in value_rows(study, summary, "balanced"):
            table.add_row(row.title, *row.cells)
        console.print(table)
    for line in (interval_sentence(summary), *state_sentences(summary)):
        console.print(line, highlight=False)
    console.print(f"report: {folder.path / 'ablation.html'}")
