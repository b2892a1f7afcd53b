"""`edgeb data`: import a log, simulate one, describe a dataset.

Parses and prints; the work is in edge_behavior.data, imported only when a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_behavior.commands.output import emit
from edge_behavior.util.path_command import PathCommand

if TYPE_CHECKING:
    from edge_behavior.data.info import DatasetInfo

app = typer.Typer(
    help="""Turn a behavior log into a dataset, or look at one.

    A dataset is a folder: cleaned events split into train, validation and test, and the list of behaviors.
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Out = Annotated[Path, typer.Option("--out", help="Dataset folder to create.", show_default=False)]
Seed = Annotated[int, typer.Option(help="Random seed of the split by users.")]
Split = Annotated[
    str,
    typer.Option(
        help="users: 8:1:1 of the users, to test on people not seen in training. time: every user's last two tenths "
        "of events are validation and test."
    ),
]
MinEvents = Annotated[
    int, typer.Option(help="Skip users with fewer events. 21 is one window: a history of 20 and a target.")
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        help="Memory for DuckDB, like 4GB or 512MiB; beyond it, data spills to disk beside --out. "
        "Default: half of the free memory, at most 8 GiB.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing output.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON document to stdout and nothing else.")]


@app.command("import", cls=PathCommand)
def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="The log; for app-usage its folder. Text may be gzipped, or come through a pipe.", show_default=False
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
        typer.Option(
            help="Column of the user's group, like a household: a split by users keeps groups together.",
            show_default=False,
        ),
    ] = None,
    no_place: Annotated[
        bool, typer.Option("--no-place", help="Import without places; prompts then have no place either.")
    ] = False,
    split: Split = "users",
    min_events: MinEvents = 21,
    cell_degrees: Annotated[
        float | None,
        typer.Option(
            help="tsmc2014: height and width of a place cell in degrees. Default: 0.03, about 3 km.",
            show_default=False,
        ),
    ] = None,
    merge_seconds: Annotated[
        int | None,
        typer.Option(
            help="Drop an event that repeats the user's previous behavior and place within this many seconds. "
            "Default: 60 for app-usage, whose rows are network requests, else 0 (keep all).",
            show_default=False,
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            help="The users' time zone, like Europe/Berlin, for times that have a UTC offset or count from 1970. "
            "as-written: ignore the offsets. Default: times are already local.",
            show_default=False,
        ),
    ] = None,
    time_unit: Annotated[
        str | None,
        typer.Option(help="Unit of numeric times since 1970: s, ms, us or ns. Needs --timezone.", show_default=False),
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
    """Import a log: clean it, split it, and report every dropped row.

    A generic log (csv, jsonl, parquet) has one event per row, with the columns user_id, timestamp (ISO 8601, local
    time), place and behavior:

        edgeb data import log.csv --format csv --out data/mine

    Other column names, and times in milliseconds since 1970:

        edgeb data import log.parquet --format parquet --behavior-column app --out data/mine

        edgeb data import log.csv --format csv --timezone Europe/Berlin --time-unit ms --out data/mine

    One person's log, without places (docs/data.md):

        edgeb data import me.csv --format csv --split time --no-place --out data/me

    Two public datasets are read as published:

        edgeb data import dataset_TSMC2014_NYC.txt --format tsmc2014 --out data/nyc

        edgeb data import app_usage/ --format app-usage --out data/apps
    """
    from edge_behavior.data.importers.importer import import_log
    from edge_behavior.data.importers.options import ColumnMap, ImportOptions
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
    options = ImportOptions(
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
        memory_limit=memory_limit,
    )
    _finish(import_log(source, format, out, options, force=force), out, as_json)


@app.command("synth", cls=PathCommand)
def synth_command(
    out: Out,
    users: Annotated[int, typer.Option(help="Number of simulated users.")] = 300,
    days: Annotated[int, typer.Option(help="Days to simulate per user.")] = 28,
    seed: Annotated[int, typer.Option(help="Random seed of the simulation and of the split by users.")] = 0,
    log: Annotated[
        Path | None, typer.Option(help="Also keep the simulated log, as this CSV file.", show_default=False)
    ] = None,
    min_events: MinEvents = 21,
    memory_limit: MemoryLimit = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Simulate phone users and import their log, for demos and tests.

    edgeb data synth --users 300 --days 28 --seed 7 --out data/synth
    """
    import tempfile

    from edge_behavior.data.importers.importer import check_output, import_log
    from edge_behavior.data.importers.options import ImportOptions
    from edge_behavior.data.simulator.simulator import simulate
    from edge_behavior.errors import EdgebError
    from edge_behavior.util.files import check_file

    if users < 3:
        raise EdgebError(f"--users is {users}", "a split by users needs 3 or more")
    name = f"synth(users={users}, days={days}, seed={seed})"
    options = ImportOptions(seed=seed, min_events=min_events, memory_limit=memory_limit, source_name=name)
    options.check("csv")
    check_output(out, force)
    if log is not None:
        check_file(log, force)
    with tempfile.TemporaryDirectory(prefix="edgeb-synth-") as folder:
        simulated = log or Path(folder) / "log.csv"
        simulate(users, days, seed, simulated, force=force)
        info = import_log(simulated, "csv", out, options, force=force)
    _finish(info, out, as_json)


@app.command("describe", cls=PathCommand)
def describe_command(
    data: Annotated[Path, typer.Argument(help="Dataset folder.", show_default=False)],
    png: Annotated[
        Path | None, typer.Option(help="Also plot the label frequencies to this PNG file.", show_default=False)
    ] = None,
    anchor: Annotated[
        float, typer.Option(help="Behaviors above this share of training events are anchors, the rest tail.")
    ] = 0.01,
    top: Annotated[int, typer.Option(min=0, help="Number of behaviors to list; 0 for all.")] = 40,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Show a dataset: users, time span, events per user, splits, and how often each behavior occurs.

    edgeb data describe data/nyc --png nyc.png
    """
    from edge_behavior.data.dataset import Dataset
    from edge_behavior.data.describe import describe, plot_distribution, tables
    from edge_behavior.util.files import check_file
    from edge_behavior.util.terminal import open_console

    dataset = Dataset.open(data)
    description = describe(dataset, anchor)
    document = description.to_dict()
    if png is not None:
        check_file(png, force)
        plot_distribution(dataset, png, anchor, force)
        document["png"] = str(png)
    emit(document, as_json, lambda: open_console().print(tables(description, top)))


def _finish(info: DatasetInfo, out: Path, as_json: bool) -> None:
    from edge_behavior.util.workspace import remember

    remember("dataset", out)
    emit({"dataset": str(out), **info.to_dict()}, as_json, lambda: _show(info, out))


def _show(info: DatasetInfo, out: Path) -> None:
    from edge_behavior.data.describe import import_tables
    from edge_behavior.util.terminal import open_console

    console = open_console()
    console.print(import_tables(info))
    places = f"{info.place.count:,} places" if info.has_places else "no places"
    console.print(f"\n{len(info.candidates)} behaviors, {places}: {out}")
