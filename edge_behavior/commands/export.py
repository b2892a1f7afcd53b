"""`edgeb export` and `edgeb inspect`: make a bundle, look into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def export_command(
    run: Annotated[Path | None, typer.Argument(help="Run folder. Default: the last run.", show_default=False)] = None,
    quant: Annotated[str, typer.Option(help="q4, q4_0, q5, q8 or f16.")] = "q4",
    format: Annotated[str, typer.Option("--format", help="gguf.")] = "gguf",
    out: Annotated[Path | None, typer.Option(help="Bundle to write. Default: RUN-QUANT.gguf.")] = None,
    stage: Annotated[str, typer.Option(help="Which weights: b_tuning, a_tuning or untuned.")] = "b_tuning",
    force: Annotated[bool, typer.Option("--force", help="Replace what is at the output path.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Merge the adapter, convert, quantize: one GGUF file with everything the phone needs.

    Stock llama.cpp loads the file; candidates, prompt layout and hashes are in its `edgeb.*` metadata.

        edgeb export runs/tiny --quant q4 --out tiny.gguf
    """
    from edge_behavior.commands.output import emit
    from edge_behavior.errors import EdgebError, nearest
    from edge_behavior.export.pipeline import export_bundle
    from edge_behavior.export.run_source import run_source
    from edge_behavior.workspace import recall, remember

    if format != "gguf":
        raise EdgebError(f"unknown format '{format}'", nearest(format, ["gguf"]))
    run = (run or recall("run")).resolve()
    out = out or run.with_name(f"{run.name}-{quant}.gguf")
    report = export_bundle(run_source(run, stage), out, quant, force)
    remember("bundle", out)
    emit(report, as_json, _show_report)


def inspect_command(
    bundle: Annotated[Path, typer.Argument(help="Bundle made by `edgeb export`.", show_default=False)],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Check a bundle's hashes and show its manifest.

    edgeb inspect tiny.gguf
    """
    import json

    from edge_behavior.bundle import verify_bundle
    from edge_behavior.commands.output import emit

    manifest = json.loads(verify_bundle(bundle).to_json())
    emit(manifest, as_json, _show_manifest)


def _show_report(report: dict[str, Any]) -> None:
    from rich.console import Console

    types = ", ".join(f"{count} {name}" for name, count in report["tensor_types"].items())
    console = Console()
    console.print(
        f"{report['bundle']}: {report['bytes'] / 1e6:.1f} MB, {report['architecture']} {report['quantization']}"
    )
    console.print(f"tensors: {types}; tokenization of {report['segments_checked']} segments equals training's")


def _show_manifest(manifest: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("field", "value", title="edgeb bundle (hashes verified)")
    for key, value in manifest.items():
        if key == "candidates":
            text = f"{len(value['labels'])}: " + ", ".join(value["labels"])
        elif key == "evaluation":
            text = ", ".join(f"{name}" for name in value) or "–"
        elif isinstance(value, dict):
            text = "\n".join(f"{k}: {v}" for k, v in value.items())
        else:
            text = str(value)
        table.add_row(key.replace("_", " "), escape(text))
    Console().print(table)
