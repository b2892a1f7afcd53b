"""`edgeb bench` and `edgeb doctor`: how fast a bundle is here, and what this machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


def bench_command(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle. Default: the last one.", show_default=False)] = None,
    repeats: Annotated[int, typer.Option(help="Predictions per scenario.", min=2)] = 30,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: physical cores.")] = None,
    scoring: Annotated[str, typer.Option(help="exact or masked.")] = "exact",
    as_json: AsJson = False,
) -> None:
    """Measure a bundle per prediction, not per token: latency, tokens evaluated, memory, size.

    Absolute times hold for this machine only; they say nothing of a phone.

        edgeb bench tiny.gguf --repeats 100 --threads 2
    """
    from rich.console import Console
    from rich.progress import Progress

    from edge_behavior.bench.latency import measure
    from edge_behavior.commands.output import emit
    from edge_behavior.scoring import check_scoring
    from edge_behavior.workspace import recall

    bundle = bundle or recall("bundle")
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measure", total=2 * repeats + 1)
        result = measure(bundle, repeats, threads, check_scoring(scoring), lambda: bar.advance(task))
    emit(result, as_json, _show_bench)


def doctor_command(as_json: AsJson = False) -> None:
    """Show what is installed here and what each part of edgeb could use.

    edgeb doctor
    """
    from edge_behavior.bench.doctor import examine
    from edge_behavior.commands.output import emit

    emit(examine(), as_json, _show_doctor)


def _show_bench(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{result['bundle']}: {result['architecture']} {result['quantization']}, {result['candidates']} candidates"
    table = Table("scenario", "p50 ms", "p95 ms", "tokens per prediction", title=title)
    for name in ("cold", "warm", "repeat"):
        row = result[name]
        values = (row["p50_ms"], row["p95_ms"], row["tokens_per_prediction"])
        table.add_row(name, *(f"{value:.1f}" for value in values))
    console = Console()
    console.print(table)
    console.print(
        f"load {result['load_ms']:.0f} ms, peak memory {result['peak_rss_bytes'] / 2**20:.0f} MiB, "
        f"file {result['file_bytes'] / 2**20:.1f} MiB, {result['scoring']} scoring"
    )


def _show_doctor(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "found", title="edgeb doctor")
    for key, value in found.items():
        table.add_row(key, str(value))
    Console().print(table)
