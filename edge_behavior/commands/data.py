"""`edgeb data`: import a log, simulate one, describe a dataset.

Parses and prints; the work is in edge_behavior.data, imported only when a command runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_behavior.commands.paths import PathCommand
from edge_behavior.util.terminal import json_text

app = typer.Typer(
    help="Make a dataset from a behavior log, or look at one.", no_args_is_help=True, rich_markup_mode="markdown"
)

Out = Annotated[Path, typer.Option("--out", help="Dataset folder to make.", show_default=False)]
Seed = Annotated[int, typer.Option(help="Seed of the split by users into train, validation and test (8:1:1).")]
Split = Annotated[
    str,
    typer.Option(help="users: test on users not seen in training. time: on the last tenth of each user's events."),
]
MinEvents = Annotated[int, typer.Option(help="Skip users with fewer events; 21 gives one window of 20 plus a target.")]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        help="Memory for DuckDB, like 4GB; more goes to disk beside --out. Default: half of the free, at most 8 GiB."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is at the output path.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


@app.command("import", cls=PathCommand)
def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="The log; for app-usage its folder. Text may be gzip, and come from a pipe.", show_default=False
        ),
    ],
    out: Out,
    format: Annotated[
        str, typer.Option("--format", help="csv, jsonl, parquet, tsmc2014 or app-usage.", show_default=False)
    ],
    user_column: Annotated[str | None, typer.Option(help="Column of the user. Default: user_id.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of the local time. Default: timestamp.")] = None,
    place_column: Annotated[str | None, typer.Option(help="Column of the place. Default: place.")] = None,
    behavior_column: Annotated[str | None, typer.Option(help="Column of the behavior. Default: behavior.")] = None,
    group_column: Annotated[
        str | None,
        typer.Option(help="Column of a user's group, like a household; its users share a part.", show_default=False),
    ] = None,
    no_place: Annotated[bool, typer.Option("--no-place", help="The log has no places: prompts have none.")] = False,
    split: Split = "users",
    min_events: MinEvents = 21,
    cell_degrees: Annotated[float, typer.Option(help="tsmc2014: height and width of a place cell, degrees.")] = 0.03,
    merge_seconds: Annotated[
        int | None,
        typer.Option(
            help="Drop an event that repeats the user's last behavior and place within so many seconds. "
            "Default: 60 for app-usage, whose rows are network requests, else 0."
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            help="The users' time zone, like Europe/Berlin: convert times that carry an offset or count from 1970. "
            "as-written: drop each time's offset instead. Default: times are local already.",
            show_default=False,
        ),
    ] = None,
    time_unit: Annotated[
        str | None,
        typer.Option(help="What numeric times count since 1970: s, ms, us or ns; with --timezone.", show_default=False),
    ] = None,
    missing: Annotated[
        str,
        typer.Option(help="Events whose behavior is empty or a word like NULL: refuse, drop, or keep as a label."),
    ] = "refuse",
    seed: Seed = 0,
    memory_limit: MemoryLimit = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Import a log: clean it, sort it, split it by user or by time, count every dropped row.

    A generic log has the columns user_id, timestamp (ISO 8601, local time), place and behavior:

        edgeb data import log.csv --format csv --out data/mine

        edgeb data import log.parquet --format parquet --behavior-column app --out data/mine

        edgeb data import log.csv --format csv --timezone Europe/Berlin --time-unit ms --out data/mine

    One person's log, or one without places (docs/data.md):

        edgeb data import me.csv --format csv --split time --no-place --out data/me

    Two public data sets are read as they are published:

        edgeb data import dataset_TSMC2014_NYC.txt --format tsmc2014 --out data/nyc

        edgeb data import app_usage/ --format app-usage --out data/apps
    """
    from edge_behavior.data.importers.importer import ColumnMap, import_log
    from edge_behavior.errors import EdgebError

    if no_place and place_column is not None:
        raise EdgebError("--no-place and --place-column exclude each other", "pass one of them")
    named = {
        "user": user_column,
        "time": time_column,
        "place": place_column,
        "behavior": behavior_column,
        "group": group_column,
    }
    given = {role: name for role, name in named.items() if name is not None}
    info = import_log(
        source,
        format,
        out,
        columns=ColumnMap(**given) if given else None,
        places=not no_place,
        split=split,
        seed=seed,
        min_events=min_events,
        cell_degrees=cell_degrees,
        merge_seconds=merge_seconds,
        timezone=timezone,
        time_unit=time_unit,
        missing=missing,
        force=force,
        memory_limit=memory_limit,
    )
    _finish(info, out, as_json)


@app.command("synth", cls=PathCommand)
def synth_command(
    out: Out,
    users: Annotated[int, typer.Option(help="Number of simulated people.")] = 300,
    days: Annotated[int, typer.Option(help="Days of each person's life.")] = 28,
    seed: Annotated[int, typer.Option(help="Seed of the simulation and of the split.")] = 0,
    log: Annotated[Path | None, typer.Option(help="Keep the simulated log as this CSV file, too.")] = None,
    min_events: MinEvents = 21,
    memory_limit: MemoryLimit = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Simulate phone users and import what they did; for demos and tests.

    edgeb data synth --users 300 --days 28 --seed 7 --out data/synth
    """
    import tempfile

    from edge_behavior.data.importers.importer import check_numbers, check_output, import_log
    from edge_behavior.data.simulator.simulator import simulate
    from edge_behavior.util.files import check_file

    check_numbers(seed, min_events, memory_limit)
    check_output(out, force)
    if log is not None:
        check_file(log, force)
    with tempfile.TemporaryDirectory(prefix="edgeb-synth-") as folder:
        made = log or Path(folder) / "log.csv"
        simulate(users, days, seed, made, force=force)
        info = import_log(
            made,
            "csv",
            out,
            seed=seed,
            min_events=min_events,
            force=force,
            memory_limit=memory_limit,
            source_name=f"synth(users={users}, days={days}, seed={seed})",
        )
    _finish(info, out, as_json)


@app.command("describe", cls=PathCommand)
def describe_command(
    data: Annotated[Path, typer.Argument(help="Dataset folder.", show_default=False)],
    png: Annotated[Path | None, typer.Option(help="Also plot the label frequencies into this PNG file.")] = None,
    anchor: Annotated[float, typer.Option(help="Share of training events above which a behavior is an anchor.")] = 0.01,
    top: Annotated[int, typer.Option(help="Behaviors to list; 0 for all.")] = 40,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Show a dataset: users, span, events per user, parts, and how often each behavior occurs.

    edgeb data describe data/nyc --png nyc.png
    """
    from edge_behavior.data.dataset import Dataset
    from edge_behavior.data.describe import describe, plot_distribution, tables
    from edge_behavior.util.files import check_file

    dataset = Dataset.open(data)
    description = describe(dataset, anchor)
    if png is not None:
        check_file(png, force)
        plot_distribution(dataset, png, anchor, force)
        description["png"] = str(png)
    if as_json:
        _print_json(description)
        return
    from edge_behavior.util.terminal import open_console

    open_console().print(tables(description, top))


def _finish(info: dict[str, Any], out: Path, as_json: bool) -> None:
    from edge_behavior.util.workspace import remember

    remember("dataset", out)
    if as_json:
        _print_json({"dataset": str(out), **info})
        return
    from rich.markup import escape

    from edge_behavior.data.describe import import_tables
    from edge_behavior.util.terminal import open_console

    console = open_console()
    console.print(import_tables(info))
    places = "no places" if info["place"]["kind"] == "none" else f"{info['place']['count']:,} places"
    console.print(f"\n{len(info['candidates']['labels'])} behaviors, {places}: {escape(str(out))}")


def _print_json(document: dict[str, Any]) -> None:
    print(json_text(document, sys.stdout.encoding))
