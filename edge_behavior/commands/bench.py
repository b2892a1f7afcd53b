"""`edgeb bench` and `edgeb doctor`: what a prediction costs here, and what this machine has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_behavior.commands.histories import HistoryTimeUnit, HistoryUser, HistoryZone
from edge_behavior.commands.open import AcceleratorOption
from edge_behavior.errors import EdgebError

if TYPE_CHECKING:
    from edge_behavior.bench.measurement import Measurement
    from edge_behavior.bench.options import HistoryFile
    from edge_behavior.bench.report import Grid

_HEAD_WIDTH = 9
_NUMBER = re.compile("[0-9]{1,9}")
# Options that mean something for one bundle only, and for several only.
_FOR_ONE = ("repeats", "accelerator", "anchor_every", "sustained", "cold_starts", "pp", "tg", "chart")
_FOR_SEVERAL = ("windows", "against", "data")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


def bench_command(
    context: typer.Context,
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[BUNDLE]...",
            help="Bundle. Default: the last one. Several of one run, of any format, are measured side by side.",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Predictions per scenario.")] = 30,
    threads: Annotated[
        str | None,
        typer.Option(
            help="CPU threads, or several numbers like 2,1,4: everything runs with the first, the session with each. "
            "Default: physical cores, one for a small bundle."
        ),
    ] = None,
    accelerator: AcceleratorOption = None,
    scoring: Annotated[str, typer.Option(help="exact (full-vocabulary) or masked (grammar-constrained).")] = "exact",
    anchor_every: Annotated[
        int, typer.Option(help="Events by which a session's window may grow beyond L before it is re-based.")
    ] = 20,
    windows: Annotated[int, typer.Option(help="Several bundles: predictions per scenario and bundle.")] = 50,
    against: Annotated[
        Path | None,
        typer.Option(help="Several bundles: which of them ratios are to. Default: the first.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Several bundles: dataset whose test windows they predict, for their accuracy.", show_default=False
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Also measure grammar completion, scoring label by label, llama.cpp alone (the lower bound), pp/tg; "
            "for GGUF files. Several bundles: the first two, on the first GGUF file.",
        ),
    ] = False,
    sustained: Annotated[
        float | None, typer.Option(help="Also predict without a pause for this many seconds and show the drift.")
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSON with timestamp, place, behavior of one user to predict from. Default: synthetic events.",
            show_default=False,
        ),
    ] = None,
    user: HistoryUser = None,
    timezone: HistoryZone = None,
    time_unit: HistoryTimeUnit = None,
    cold_starts: Annotated[int, typer.Option(help="Processes started per kind of cold start.")] = 3,
    label_repeats: Annotated[
        int, typer.Option(help="--compare: predictions scored label by label, which is slow.")
    ] = 3,
    budget: Annotated[
        float,
        typer.Option(
            help="Seconds to take, without --sustained and other threads; what does not fit is cut and named."
        ),
    ] = 300.0,
    pp: Annotated[int, typer.Option(help="--compare: prompt tokens of pp.")] = 512,
    tg: Annotated[int, typer.Option(help="--compare: generated tokens of tg.")] = 128,
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables into this file.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Also draw the latencies into this PNG file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at the output paths.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle per prediction: latency, tokens evaluated, memory, size; several in one table.

    Times hold for this machine; the phone has its own bench in android_demo.

    Several bundles of one run take turns in one process, on the same windows: times with intervals and as ratios,
    accuracy, the engine's same calls bare, what this machine could do at best, and which bundle to take.

        edgeb bench tiny.gguf --repeats 100 --threads 2

        edgeb bench tiny.gguf --compare --chart bench.png --markdown bench.md

        edgeb bench tiny.gguf --threads 1,2,4 --sustained 60 --json

        edgeb bench tiny-q4.gguf tiny-q8.gguf tiny.tflite --data data/synth --against tiny-q4.gguf
    """
    from edge_behavior.bench.options import HistoryFile
    from edge_behavior.util.workspace import recall

    source = None if history is None else HistoryFile(history, user, timezone, time_unit)
    given = bundles or [recall("bundle")]
    _check_number(context, len(given))
    if len(given) > 1:
        table = _TableFlags(given, windows, threads, scoring, against, data, source, compare, label_repeats, budget)
        _bench_table(table, markdown, force, as_json)
        return
    bundle = given[0]
    from edge_behavior.bench.chart import draw
    from edge_behavior.bench.latency import measure, tick_count
    from edge_behavior.bench.options import BenchOptions
    from edge_behavior.bench.report import markdown as as_markdown
    from edge_behavior.bench.sustained import check_seconds, threads_sweep
    from edge_behavior.bench.sustained import sustained as sustain
    from edge_behavior.bundle.bundle import bundle_form, read_manifest, require_gguf
    from edge_behavior.commands.histories import known_events
    from edge_behavior.commands.output import emit
    from edge_behavior.runtime.accelerator import chosen_accelerator
    from edge_behavior.runtime.litert.package import quiet_exit
    from edge_behavior.util.files import write_file
    from edge_behavior.util.progress import progress_bar

    if compare or bundle_form(bundle) == "folder":
        require_gguf(bundle, "--compare measures llama.cpp" if compare else "bench measures single files")
    if chosen_accelerator(bundle, accelerator) is not None:
        quiet_exit()
    if source is not None:
        manifest = read_manifest(bundle)
        known_events(source.read(manifest.layout.places), manifest.candidates)
    numbers = _numbers(threads, bundle)
    options = BenchOptions(
        repeats=repeats,
        threads=numbers[0],
        scoring=scoring,
        anchor_every=anchor_every,
        compare=compare,
        label_repeats=label_repeats,
        cold_starts=cold_starts,
        pp=pp,
        tg=tg,
        history=source,
        accelerator=accelerator,
        budget=budget,
    )
    if sustained is not None:
        check_seconds(sustained)
    for path in (markdown, chart):
        if path is not None:
            _check_file(path, force)
    with progress_bar("measure", tick_count(options), transient=True) as advance:
        result = measure(bundle, options, lambda what: advance(1, what))
    if len(numbers) > 1:
        with progress_bar("threads", len(numbers) * repeats, transient=True) as advance:
            result = replace(result, threads=threads_sweep(bundle, options, numbers, advance))
    if sustained is not None:
        with progress_bar("sustained", sustained, transient=True) as advance:
            result = replace(result, sustained=sustain(bundle, options, sustained, advance))
    if markdown is not None:
        write_file(markdown, as_markdown(result), replace=force)
    if chart is not None:
        draw(result, chart, force)
    emit(result.to_dict(), as_json, lambda: _show_bench(result))


@dataclass(frozen=True)
class _TableFlags:
    """The flags of a table of bundles."""

    bundles: list[Path]
    windows: int
    threads: str | None
    scoring: str
    against: Path | None
    data: Path | None
    history: HistoryFile | None
    compare: bool
    label_repeats: int
    budget: float


def _bench_table(flags: _TableFlags, markdown: Path | None, force: bool, as_json: bool) -> None:
    """Measure several bundles side by side."""
    from edge_behavior.bench.engines.measure import measure_table, tick_count
    from edge_behavior.bench.engines.options import TableOptions
    from edge_behavior.bench.engines.report import footing, grids, heading, remarks
    from edge_behavior.bench.engines.report import markdown as as_markdown
    from edge_behavior.bundle.bundle import bundle_form, read_manifest
    from edge_behavior.commands.histories import known_events
    from edge_behavior.commands.output import emit
    from edge_behavior.runtime.litert.package import quiet_exit
    from edge_behavior.util.files import write_file
    from edge_behavior.util.progress import progress_bar

    # The largest decides: a number of threads that slows a small one down hits all of them alike.
    largest = max(flags.bundles, key=lambda path: path.stat().st_size if path.is_file() else 0)
    numbers = _numbers(flags.threads, largest)
    if len(numbers) > 1:
        raise _for_one("--threads with several numbers", len(flags.bundles))
    options = TableOptions(
        windows=flags.windows,
        threads=numbers[0],
        scoring=flags.scoring,
        against=flags.against,
        data=flags.data,
        history=flags.history,
        peers=flags.compare,
        slow_windows=flags.label_repeats,
        budget=flags.budget,
    )
    if flags.history is not None:
        manifest = read_manifest(flags.bundles[0])
        known_events(flags.history.read(manifest.layout.places), manifest.candidates)
    if markdown is not None:
        _check_file(markdown, force)
    if any(bundle_form(bundle) == "litert" for bundle in flags.bundles):
        quiet_exit()
    with progress_bar("measure", tick_count(len(flags.bundles), options), transient=True) as advance:
        table = measure_table(flags.bundles, options, tick=lambda what: advance(1, what))
    if markdown is not None:
        write_file(markdown, as_markdown(table), replace=force)
    emit(table.to_dict(), as_json, lambda: _show(heading(table), grids(table), [*remarks(table), footing(table)]))


def _check_number(context: typer.Context, bundles: int) -> None:
    for name in _FOR_ONE if bundles > 1 else _FOR_SEVERAL:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = f"--{name.replace('_', '-')}"
            if bundles > 1:
                raise _for_one(flag, bundles)
            raise EdgebError(f"{flag} compares several bundles, and one is named", "name two or more bundles")


def _for_one(flag: str, bundles: int) -> EdgebError:
    return EdgebError(f"{flag} measures one bundle, and {bundles} are named", "name one bundle")


def doctor_command(as_json: AsJson = False) -> None:
    """Show this machine's packages, llama.cpp build, accelerator, memory and disk.

    edgeb doctor
    """
    from edge_behavior.bench.doctor import examine
    from edge_behavior.commands.output import emit

    emit(examine(), as_json, _show_doctor)


def _numbers(threads: str | None, bundle: Path) -> list[int]:
    """Thread counts of `--threads`."""
    from edge_behavior.bench.timing import default_threads
    from edge_behavior.util.cpus import chosen_threads

    if threads is None:
        return [default_threads(bundle)]
    parts = threads.split(",")
    if not all(_NUMBER.fullmatch(part.strip()) for part in parts):
        raise EdgebError(f"--threads is '{threads}'", "pass a number of threads, or several like 1,2,4")
    return list(dict.fromkeys(chosen_threads(int(part), 1, "--threads") for part in parts))


def _check_file(path: Path, force: bool) -> None:
    from edge_behavior.util.files import check_file

    check_file(path, force)
    if not path.absolute().parent.is_dir():
        raise EdgebError(f"the folder of {path} does not exist", "make it first")


def _show_bench(result: Measurement) -> None:
    from edge_behavior.bench.report import cuts, footing, grids, heading

    _show(heading(result), grids(result), [*cuts(result), footing(result)])


def _show(heading: str, grids: Sequence[Grid], lines: Sequence[str]) -> None:
    from textwrap import fill

    from rich import box
    from rich.table import Table

    from edge_behavior.util.terminal import open_console

    console = open_console()
    console.print(heading, highlight=False)
    for grid in grids:
        table = Table(title=grid.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        # Numbers stay whole; names wrap where the terminal is narrow.
        for i, head in enumerate(grid.heads):
            table.add_column(
                fill(head, _HEAD_WIDTH, break_long_words=False) if i else head,
                justify="right" if i else "left",
                no_wrap=i > 0,
            )
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for line in lines:
        console.print(line, highlight=False)


def _show_doctor(found: dict[str, str]) -> None:
    from rich.table import Table

    from edge_behavior.util.terminal import open_console

    table = Table("part", "found", title="edgeb doctor")
    for key, value in found.items():
        table.add_row(key, value)
    open_console().print(table)
