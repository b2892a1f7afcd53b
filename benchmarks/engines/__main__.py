"""One run on every engine, side by side: the table of `edgeb bench`, LiteRT-LM as a peer, floors, and the goals.

    python -m benchmarks.engines SOURCE --data DATA --work FOLDER --name NAME \\
        [--litert-python PYTHON] [--litert-lm-python PYTHON] [--docs docs/engines.md]

SOURCE is a run folder, or a Hugging Face folder, which is measured untuned with DATA's candidates. Exports what the
work folder does not have yet, so that a stopped script goes on there, and a bundle may be put there by hand. Then
measures, which takes about ten minutes for SmolLM2 on two cores; nothing else should run meanwhile. Writes
engines-NAME.json and engines-NAME.md under results/, and with `--docs` the lines between that page's marks.

LiteRT's exporter and LiteRT-LM have environments of their own (docs/export.md, "Packages"); what is not installed is
left out and named:

    python -m venv lm && lm/bin/pip install litert-lm-api==0.18.1
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks.engines.bundles import Exporter, Wanted
from benchmarks.engines.goals import REFERENCE, goals
from benchmarks.engines.litert_lm import scoring_rival, stock_export
from benchmarks.engines.page import page, update_docs
from benchmarks.without_amx import is_refused
from edge_behavior.bench.engines.measure import measure_table
from edge_behavior.bench.engines.options import TableOptions
from edge_behavior.bench.engines.result import Table
from edge_behavior.bench.engines.rivals import RivalMaker
from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.export.litert.worker import PYTHON_VARIABLE
from edge_behavior.export.run_source import run_source
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.litert.package import quiet_exit
from edge_behavior.runtime.predictor import context_needed
from edge_behavior.util.cpus import physical_cores
from edge_behavior.util.files import write_file

RESULTS = Path(__file__).parents[1] / "results"
BUNDLES = ("gguf-q4_0", "gguf-q8", "gguf-q4", "litert-q8", "onnx-q8")
# A prompt of SmolLM2's is 250 to 300 tokens.
PREFILL = (32, 128, 256)
# Rounds between two windows of LiteRT-LM with its prompt evaluated once, which takes about a second.
SHARED_EVERY = 3


def source_of(path: Path, data: Path) -> ExportSource:
    """A run's tuned weights, or a model folder as it is.

    Raises:
        EdgebError: neither, or a dataset that does not fit the run.
    """
    if (path / "run.json").is_file():
        return run_source(path, data=data)
    if not (path / "config.json").is_file():
        raise EdgebError(f"{path} is neither a run nor a model folder", "name one")
    dataset = Dataset.open(data)
    layout = PromptLayout(places=dataset.has_places)
    return ExportSource(path, None, dataset.candidates, layout, data=data, places=tuple(dataset.places))


def measure(exporter: Exporter, args: argparse.Namespace) -> tuple[Table, list[str]]:
    """The table, and what is not in it."""
    made, notes = exporter.all(args.bundles, say)
    reference = made.get(REFERENCE)
    options = TableOptions(
        windows=args.windows,
        threads=args.threads,
        against=reference,
        data=args.data,
        peers=any(path.suffix == ".gguf" for path in made.values()),
        slow_windows=args.slow_windows,
        budget=args.budget,
    )
    if len(made) < 2:
        raise EdgebError(f"there is nothing to compare: {'; '.join(notes)}", "install an engine's packages")
    rivals: list[RivalMaker] = []
    try:
        model = stock_export(
            exporter.folder(say),
            args.work / "litert-lm",
            args.litert_python,
            args.cache or context_needed(read_manifest(next(iter(made.values())))),
            PREFILL,
        )
        seldom = max(1, options.windows // options.slow_windows)
        for every, share in ((seldom, False), (SHARED_EVERY, True)):
            rivals.append(scoring_rival(model, args.litert_lm_python, args.threads, every, share))
    except EdgebError as error:
        notes.append(str(error))
    say("measure")
    table = measure_table(list(made.values()), options, rivals, tick)
    return table, notes


def say(what: str) -> None:
    print(f"engines: {what}", file=sys.stderr, flush=True)


def tick(what: str) -> None:
    print(".", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for bundles")
    parser.add_argument("--name", required=True, help="of the results")
    parser.add_argument("--bundles", type=Wanted.parse, nargs="+", default=[Wanted.parse(text) for text in BUNDLES])
    parser.add_argument("--prune", default="off", help="off (the stock peers have the whole vocabulary), auto or on")
    parser.add_argument("--gate-windows", type=int, default=64, help="windows of each export's parity gate")
    parser.add_argument("--windows", type=int, default=50)
    parser.add_argument("--slow-windows", type=int, default=5, help="windows of rivals that take seconds")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--budget", type=float, default=600.0, help="seconds that measuring may take")
    parser.add_argument("--litert-python", default=os.environ.get(PYTHON_VARIABLE), help="has litert-torch")
    parser.add_argument("--litert-lm-python", help="has litert-lm-api")
    parser.add_argument("--cache", type=int, help="slots of the stock export's cache; default: what prompts need")
    parser.add_argument("--docs", type=Path, help="page whose marked lines to write, too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.litert_python:
        os.environ[PYTHON_VARIABLE] = args.litert_python
    quiet_exit()
    args.work.mkdir(parents=True, exist_ok=True)
    exporter = Exporter(source_of(args.source, args.data), args.work, args.gate_windows, args.prune)
    table, notes = measure(exporter, args)
    held = goals(table)
    exports = {row.name: exporter.report(row.name) for row in table.bundles}
    without_amx = is_refused()
    document = {
        "name": args.name,
        "without_amx": without_amx,
        "goals": [goal.to_dict() for goal in held],
        "not_there": notes,
        **table.to_dict(),
    }
    write_file(args.out / f"engines-{args.name}.json", json.dumps(document, indent=1) + "\n", replace=True)
    text = page(args.name, table, held, exports, notes, without_amx)
    write_file(args.out / f"engines-{args.name}.md", text, replace=True)
    if args.docs is not None:
        update_docs(args.docs, args.name, table)
    print(text)


if __name__ == "__main__":
    try:
        main()
    except EdgebError as error:
        sys.exit(f"engines: {error}")
