"""What every weight format costs: predictions changed, accuracy lost, bytes, with and without an importance matrix.

    python -m benchmarks.quantization [--run NAME=RUN …] [--model NAME=FOLDER …] --work FOLDER

A RUN is measured on validation users of its dataset, a MODEL (a Hugging Face folder without candidates of its own) on
made-up questions about twelve of the simulator's behaviors. Everything is compared with the PyTorch model before
merging, by the exporter's own parity gate. Adds to what quantization.json holds under results/ and writes the .md anew.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.simulator.behaviors import LABELS
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.run_source import run_source
from edge_behavior.export.source import ExportSource

RESULTS = Path(__file__).parent / "results"
QUANTS = ("q4_0", "q4", "q5", "q8", "f16")
# For models without rows of 256 the K-quants fall back to other formats; the table names what the tensors got.
PROMPTS = 64
GROUPS = ("accuracy", "head", "medium", "tail")


def measure(source: ExportSource, work: Path, windows: int, per_behavior: int) -> dict[str, Any]:
    """The gate's last stage per format, with and without importance, and q4_0 with recovery."""
    found: dict[str, Any] = {"formats": []}
    cases = [(quant, prompts, "off") for quant in QUANTS for prompts in ((0,) if quant == "f16" else (0, PROMPTS))]
    for quant, prompts, recover in [*cases, ("q4_0", PROMPTS, "auto")]:
        profile = ExportProfile(
            quant=quant,
            habits="off",
            calibrate="off",
            importance={"prompts": prompts},
            parity={"windows": windows, "per_behavior": per_behavior, "enforce": False},
            # Any loss is worth a try here.
            recover={"mode": recover, "tail_loss": 0.0},
        )
        report = export_gguf(source, work / "b.gguf", profile, force=True).to_dict()
        parity = report["parity"]
        found |= {key: parity[key] for key in ("windows", "natural", "balanced", "held_out", "reference")}
        found["stages"] = {name: row for name, row in parity["stages"].items() if name != "quantize"}
        row = {"quant": quant, "importance": prompts > 0, "recovery": parity["recovery"], "bytes": report["bytes"]}
        found["formats"].append({**row, "tensor_types": report["tensor_types"], **parity["stages"]["quantize"]})
    return found


def page(document: dict[str, Any]) -> str:
    lines = [
        "# What every weight format costs",
        "`python -m benchmarks.quantization --run NAME=RUN --model NAME=FOLDER --work FOLDER`. Flips: windows with "
        "another first candidate. KL in nats. "
        "Accuracy on windows as they occur, head, medium and tail as mean recall on balanced ones; loss in points "
        "against the PyTorch model before merging.",
    ]
    for name, found in document["models"].items():
        drawn = "validation windows" if found["held_out"] else "made-up questions"
        reference = ", ".join(f"{key} {value:.3f}" for key, value in found["reference"].items() if value is not None)
        lines += [f"## {name}", f"{found['windows']} {drawn}. Trained: {reference or 'not measured'}."]
        rows = ["| after | importance | bytes | tensors | flips | KL | max Δ log p | " + " | ".join(GROUPS) + " |"]
        rows.append("|---|---|---:|---|" + "---:|" * 7)
        for stage, row in found["stages"].items():
            rows.append(f"| {stage} | | | | {_numbers(row, found['reference'])} |")
        for row in found["formats"]:
            types = ", ".join(f"{count} {kind}" for kind, count in row["tensor_types"].items() if kind != "F32")
            what = row["quant"]
            if row["recovery"]:
                kept = " ".join(row["recovery"]["kept"]).replace(".weight", "")
                what += f", recovery: {kept or 'nothing adopted'}"
            elif row is found["formats"][-1]:
                what += ", recovery: the tail lost nothing"
            yes = "yes" if row["importance"] else ""
            rows.append(f"| {what} | {yes} | {row['bytes']:,} | {types} | {_numbers(row, found['reference'])} |")
        lines.append("\n".join(rows))
    return "\n\n".join(lines) + "\n"


def _numbers(row: dict[str, Any], reference: dict[str, float | None]) -> str:
    cells = [f"{row['flips']:.2%}", f"{row['mean_kl']:.2g}", f"{row['max_log_prob']:.2g}"]
    for group in GROUPS:
        before = reference[group]
        cells.append("–" if before is None else f"{100 * (row[group] - before):+.1f}")
    return " | ".join(cells)


def _pairs(texts: list[str]) -> list[tuple[str, str]]:
    """(name, path) of every NAME=PATH."""
    return [(name, path) for name, _, path in (text.partition("=") for text in texts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", default=[], metavar="NAME=RUN")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=400)
    parser.add_argument("--per-behavior", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results = args.out / "quantization.json"
    document = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {"models": {}}
    sources = {name: run_source(Path(path)) for name, path in _pairs(args.run)}
    for name, path in _pairs(args.model):
        # Such a model has a short context and a small vocabulary: few labels, few words, a short history.
        layout = PromptLayout("stream", list_candidates=False, history_length=5, task="Next", role="Diary")
        sources[name] = ExportSource(path, None, CandidateSet.of(LABELS[:12]), layout)
    for name, source in sources.items():
        found = measure(source, args.work, args.windows, args.per_behavior)
        document["models"][name] = {"measured": time.strftime("%Y-%m-%d"), **found}
        results.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (args.out / "quantization.md").write_text(page(document), encoding="utf-8")
    print(page(document))


if __name__ == "__main__":
    main()
