"""`edgeb compare`: which system predicts best on a log, as one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edge_behavior.studies.compare.folder import Asked, CompareFolder
    from edge_behavior.studies.compare.results import Results

_SOME_FAILED = 1
_DEFAULT_RECIPE = "smollm2-135m"


def compare_command(
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder. Default: the comparison's, else the last one made.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Shipped recipe or YAML file of the tuned models. Default: smollm2-135m."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the comparison; an existing one is continued.")] = Path(
        "comparison"
    ),
    systems: Annotated[
        str | None,
        typer.Option(
            help="Names, separated by commas; `paper` for the paper's tables. Default: all but the rarer tuned models "
            "and the paper's rivals. `list` lists them."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds of what learns among --systems, counted up from the recipe's own. Default: 1."),
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="natural, balanced or both. Default: both.")] = None,
    windows: Annotated[
        int | None, typer.Option(min=10, help="Test windows per protocol, at most. Default: 150.")
    ] = None,
    validation: Annotated[
        int | None, typer.Option(min=10, help="Validation windows, for rates, mixtures and τ. Default: 100.")
    ] = None,
    cold: Annotated[
        str | None,
        typer.Option(
            help="Events known of a user at each cold start, or none: each scores the natural windows once more. "
            "More may be added later. Default: 0,1,2,5,10."
        ),
    ] = None,
    rate_targets: Annotated[
        int | None, typer.Option(min=0, help="Training targets per candidate rate; 0: no search. Default: 1000.")
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(help="Candidate rates of tuned models, by commas. Default: a third, 1 and 3 times the recipe's."),
    ] = None,
    small_targets: Annotated[
        int | None,
        typer.Option(min=0, help="Training targets of small networks. Default: 0, all."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="targets, few_shot or size, with values as targets=500,2000. May be repeated."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="URL of an OpenAI-compatible API: adds the system `endpoint`, which gets events of the log."),
    ] = None,
    endpoint_model: Annotated[str, typer.Option(help="The endpoint's name of the model.")] = "",
    endpoint_insecure: Annotated[
        bool, typer.Option("--endpoint-insecure", help="Allow an http:// endpoint on another machine.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a field of the recipe, section.key=value, or a setting of a system, system.setting=value. "
            "May be repeated.",
        ),
    ] = None,
    authors: Annotated[
        bool,
        typer.Option(
            "--authors", help="The paper's rivals with what their authors state, where known, not the recipe's adapter."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be trained and scored, and how long; do nothing.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Only write the report of what is scored so far.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Compare counters, small networks and tuned language models on the same windows of a log, with intervals.

    Each system is fitted on the training users, its learning rate chosen on validation users, and scored at the same
    test windows: as they occur, balanced over behaviors, and when little is known of a user (cold start). Mixtures with
    the user's habits and an adjusted prior are derived of every system without training. Call again to continue; what
    is scored is kept as OUT/predictions, and the report is made of these files alone.

        edgeb compare --data data/mine --out comparison --seeds 2

        edgeb compare --out comparison --sweep targets=500,1000,2000

        edgeb compare --out comparison --report

    Exit code 1: a system failed; the others went on, and the report names it.
    """
    from edge_behavior.commands.imports import libraries
    from edge_behavior.commands.output import emit
    from edge_behavior.errors import EdgebError
    from edge_behavior.studies.compare.folder import CompareFolder
    from edge_behavior.util.cpus import wait_passively

    wait_passively()
    folder = CompareFolder(out)
    sized = (protocol, windows, validation, rate_targets, rates, small_targets)
    given = (data, recipe, systems, seeds, cold, *sized, endpoint)
    if report:
        if any(value is not None for value in given) or sweep or set_ or authors or dry_run:
            raise EdgebError("--report takes what the folder has", "leave out all flags but --out and --json")
        _report(folder, as_json)
        return
    with libraries():
        from edge_behavior.baselines.endpoint.client import EndpointConfig
        from edge_behavior.studies.compare import registry
        from edge_behavior.studies.compare.contenders import Bench, check_needs
        from edge_behavior.studies.compare.plan import parse_cold
        from edge_behavior.studies.compare.runner import drawn_windows, run_compare
    if endpoint is None and endpoint_model:
        raise EdgebError("--endpoint-model without --endpoint", "name the endpoint's URL, too")
    asked_of = None if endpoint is None else EndpointConfig(endpoint, endpoint_model, insecure=endpoint_insecure)
    known = registry.all_contenders(asked_of)
    if systems == "list":
        emit({name: held.title for name, held in known.items()}, as_json, lambda: _list(known))
        return
    sizes = {
        "protocol": protocol,
        "windows": windows,
        "validation": validation,
        "rate_targets": rate_targets,
        "rates": None if rates is None else _numbers(rates),
        "small_targets": small_targets,
    }
    names = None if systems is None else [name.strip() for name in systems.split(",") if name.strip()]
    identity = {} if asked_of is None else asked_of.identity
    asked, dataset = _asked(
        folder,
        recipe,
        data,
        set_ or [],
        authors,
        names,
        seeds,
        None if cold is None else parse_cold(cold),
        sizes,
        sweep or [],
        known,
        identity,
        not dry_run or folder.started,
    )
    asked = folder.joined(asked)
    contenders = registry.chosen(registry.all_contenders(asked_of, asked.settings), asked.systems)
    check_needs(contenders, dataset)
    drawn = drawn_windows(asked, dataset)
    if dry_run:
        with libraries():
            from edge_behavior.studies.compare.dry_run import dry_run as planned
        document = planned(Bench(asked, dataset, folder, drawn), contenders)
        emit(document, as_json, lambda: _show_plan(document))
        return
    folder.ask(asked, dataset.path)
    failed = run_compare(Bench(asked, dataset, folder, drawn), contenders)
    _report(folder, as_json)
    if failed:
        raise typer.Exit(_SOME_FAILED)


def _asked(
    folder: CompareFolder,
    recipe: str | None,
    data: Path | None,
    overrides: list[str],
    authors: bool,
    names: list[str] | None,
    seeds: int | None,
    cold: tuple[int, ...] | None,
    sizes: dict[str, Any],
    sweeps: list[str],
    known: Any,
    endpoint: dict[str, str],
    pin: bool,
) -> tuple[Asked, Any]:
    """What this call asks for, flags that were left out taken from the folder; and the dataset."""
    from edge_behavior.baselines.settings import split_overrides
    from edge_behavior.data.dataset import Dataset
    from edge_behavior.errors import EdgebError
    from edge_behavior.studies.compare import registry
    from edge_behavior.studies.compare.contenders import swept_systems
    from edge_behavior.studies.compare.folder import Asked, Sizes
    from edge_behavior.studies.compare.plan import parse_sweeps
    from edge_behavior.train.recipe import load_recipe
    from edge_behavior.train.run.inputs import located, pinned
    from edge_behavior.util.workspace import recall

    before, local = (folder.read(), folder.local()) if folder.started else (None, None)
    overrides, changes = split_overrides(overrides, known)
    if recipe is not None or before is None:
        base = load_recipe(recipe or _DEFAULT_RECIPE, overrides)
    elif overrides:
        raise EdgebError("--set without --recipe", f"name the recipe, or use that of {folder.path} as it is")
    else:
        base = local[0] if local is not None else before.recipe
    base = pinned(base) if pin else located(base)
    dataset = Dataset.open(data or (local[1] if local is not None else recall("dataset")))
    asked_names = names or (list(before.systems) if before is not None else registry.default_systems(known))
    contenders = registry.chosen(known, [*asked_names, *([registry.ENDPOINT] if endpoint else [])])
    held = Sizes() if before is None else before.sizes
    chosen = Sizes(**{name: getattr(held, name) if value is None else value for name, value in sizes.items()})
    wanted = parse_sweeps(sweeps)
    count = seeds or (len(before.seeds) if before is not None else 1)
    every = tuple(range(base.seed, base.seed + count))
    learned = tuple(name for name, one in contenders.items() if one.learns(base))
    asked = Asked(
        recipe=base,
        fingerprint=dataset.fingerprint,
        dataset_name=dataset.info.source.name,
        source=dataset.info.source.format,
        systems=tuple(contenders),
        titles={name: one.title for name, one in contenders.items()},
        learned=learned,
        seeds=every,
        cold=_cold(cold, before, chosen.protocol),
        sizes=chosen,
        sweeps=wanted,
        swept=swept_systems(wanted, contenders, base),
        endpoint=endpoint,
        settings=_settings(before, list(contenders), changes, authors),
        # Seeds are those of the systems that are named; what is only continued keeps its own.
        own_seeds={
            name: before.seeds_of(name) if seeds is None and before is not None and name in before.learned else every
            for name in learned
        },
    )
    return asked, dataset


def _cold(wanted: tuple[int, ...] | None, before: Asked | None, protocol: str) -> tuple[int, ...]:
    """The cold starts of this call: none where natural windows are not drawn."""
    from edge_behavior.errors import EdgebError
    from edge_behavior.studies.compare.windows import COLD

    if wanted and protocol == "balanced":
        raise EdgebError(
            "--cold with --protocol balanced: cold starts are natural windows", "take --protocol both, or --cold none"
        )
    if wanted is not None:
        return wanted
    if before is not None:
        return before.cold
    return () if protocol == "balanced" else COLD


def _settings(
    before: Asked | None, names: list[str], changes: dict[str, dict[str, Any]], authors: bool
) -> dict[str, dict[str, Any]]:
    """What systems are set to, by name: of those that the folder has, what it has, unless something else is asked."""
    from edge_behavior.errors import EdgebError
    from edge_behavior.studies.compare import registry

    if absent := sorted(changes.keys() - set(names)):
        raise EdgebError(f"--set {absent[0]}: that system takes no part", "add it to --systems")
    found = {}
    for name in names:
        if before is not None and name in before.systems and not authors and name not in changes:
            found[name] = dict(before.settings.get(name, {}))
        else:
            found[name] = registry.system_settings(name, changes.get(name, {}), authors)
    return {name: held for name, held in found.items() if held}


def _numbers(text: str) -> tuple[float, ...]:
    from edge_behavior.errors import EdgebError

    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found or not all(0 < rate < 1 for rate in found):
        raise EdgebError(f"--rates {text}: not numbers between 0 and 1", "for example --rates 0.0001,0.0005")
    return found


def _list(known: Any) -> None:
    for name, held in known.items():
        typer.echo(f"{name}: {held.title}")


def _show_plan(document: dict[str, Any]) -> None:
    from edge_behavior.util.terminal import open_console

    console = open_console()
    for entry in document["entries"]:
        done = "done" if not entry["left"] else f"seeds {', '.join(map(str, entry['left']))}"
        console.print(f"{entry['system']}: {done}", highlight=False)
    for stage, counted in document["stages"].items():
        text = f"{stage}: {counted['left']} to train ({counted['unshared']} without sharing)"
        console.print(text, highlight=False)
    shown = ", ".join(f"{count} {name}" for name, count in document["windows"].items())
    console.print(f"windows: {shown}; the natural ones again at every cold start", highlight=False)
    if document["time"] is not None:
        _show_time(document["time"])


def _show_time(time: dict[str, Any]) -> None:
    from rich.table import Table

    from edge_behavior.util.numbers import duration
    from edge_behavior.util.terminal import open_console

    console, parts = open_console(), ("training", "pool", "scoring", "total")
    table = Table("time at most", *parts)
    for name, spent in time["systems"].items():
        table.add_row(name, *(duration(spent[part]) for part in parts))
    table.add_row("all of these", "", "", "", duration(time["total"]), style="bold")
    if time["systems"]:
        console.print(table)
        said = f"measured on {' and '.join(time['measured_on'])}; a stage in common counts where it is trained first"
        console.print(said, highlight=False)
    for name, why in time["refused"].items():
        console.print(f"{name}: no time: {why}", highlight=False)
    if time["not_estimated"]:
        console.print(f"not estimated: {', '.join(time['not_estimated'])}", highlight=False)


def _report(folder: CompareFolder, as_json: bool) -> None:
    """Write the report; show the protocols' tables and the words."""
    from edge_behavior.commands.output import emit
    from edge_behavior.studies.compare.report import write_report

    results = write_report(folder)
    emit(results.to_dict(), as_json, lambda: _show(results, folder))


def _show(results: Results, folder: CompareFolder) -> None:
    from rich.table import Table

    from edge_behavior.studies.compare.paper.table import paper_table
    from edge_behavior.studies.compare.texts import protocol_tables
    from edge_behavior.studies.compare.words import state_sentences, verdict
    from edge_behavior.util.terminal import open_console

    console = open_console()
    for held in (paper_table(results), *protocol_tables(results)):
        table = Table("", *held.heads, title=held.title, caption=held.caption, box=None, title_justify="left")
        for row in held.rows:
            table.add_row(*row)
        console.print(table)
    for line in (*verdict(results), *state_sentences(results)):
        console.print(line, highlight=False)
    console.print(f"report: {folder.path / 'compare.html'}")
