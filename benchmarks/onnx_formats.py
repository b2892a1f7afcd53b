"""ONNX and GGUF weight formats compared: size, distance from f32, accuracy.

    python -m benchmarks.onnx_formats --run RUN --data DATA --work FOLDER [--windows 400]

Exports the run in every format, unpruned and without fits, and scores the same windows of test users with the model
alone; the reference is the f32 GGUF file in llama.cpp. Writes onnx_formats.json and onnx_formats.md under results/.
Nothing is timed, so the machine may be busy.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.bundle.bundle import bundle_bytes
from edge_behavior.core.scoring import Floats, log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import natural_windows
from edge_behavior.evaluation.bundles import bundle_log_probs
from edge_behavior.evaluation.protocols import Targets
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.onnx.options import OnnxOptions
from edge_behavior.export.onnx.pipeline import export_onnx
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.run_source import run_source
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.predictor import Predictor

RESULTS = Path(__file__).parent / "results"
PER_USER = 20
PACKAGES = ("llama-cpp-python", "onnxruntime", "onnxruntime-genai", "torch", "transformers")


@dataclass(frozen=True)
class Format:
    """One row: a GGUF format's name, or an ONNX export's options."""

    title: str
    made: str | OnnxOptions


FORMATS = (
    Format("GGUF f32", "f32"),
    Format("GGUF q8", "q8"),
    Format("GGUF q4", "q4"),
    Format("GGUF q4_0", "q4_0"),
    Format("ONNX f32", OnnxOptions("f32")),
    Format("ONNX q8", OnnxOptions("q8")),
    Format("ONNX q4", OnnxOptions("q4")),
    Format("ONNX q4, accuracy level 1", OnnxOptions("q4", accuracy_level=1)),
    Format("ONNX q4, block size 16", OnnxOptions("q4", block_size=16)),
    Format("ONNX q4, block size 128", OnnxOptions("q4", block_size=128)),
    Format("ONNX q4, rtn", OnnxOptions("q4", algorithm="rtn")),
    Format("ONNX q4, k_quant", OnnxOptions("q4", algorithm="k_quant")),
    Format("ONNX q4, embeddings not shared", OnnxOptions("q4", share_embeddings=False)),
    Format("ONNX q4, k_quant, not shared", OnnxOptions("q4", algorithm="k_quant", share_embeddings=False)),
)


def export(source: ExportSource, made: str | OnnxOptions, out: Path) -> None:
    unfitted: dict[str, Any] = {"prune": "off", "habits": "off", "calibrate": "off", "parity": {"enforce": False}}
    if isinstance(made, OnnxOptions):
        export_onnx(source, out, made, ExportProfile(**unfitted), force=True)
    else:
        profile = ExportProfile(quant=made, importance={"prompts": 0}, recover={"mode": "off"}, **unfitted)
        export_gguf(source, out, profile, force=True)


def scores(bundle: Path, table: EventTable, targets: Targets) -> Floats:
    with Predictor.load(bundle, exact_math=True, prefix_cache=False) as predictor:
        return bundle_log_probs(predictor, table, targets)


def row(title: str, size: int, raw: Floats, reference: Floats, truth: Any) -> dict[str, Any]:
    found, expected = log_softmax(raw), log_softmax(reference)
    divergence = (np.exp(expected) * (expected - found)).sum(1)
    return {
        "format": title,
        "bytes": size,
        "accuracy": float((found.argmax(1) == truth).mean()),
        "nll": float(-found[np.arange(len(truth)), truth].mean()),
        "mean_kl": float(divergence.mean()),
        "max_kl": float(divergence.max()),
        "flips": float((found.argmax(1) != expected.argmax(1)).mean()),
        "max_log_difference": float(np.abs(raw - reference).max()),
    }


def markdown(found: dict[str, Any]) -> str:
    lines = [
        "# Weight formats, ONNX beside GGUF",
        "",
        f"Recipe {found['recipe']}, {found['windows']} windows of test users, the model alone, nothing pruned. KL and",
        "other first candidates against the first row, in llama.cpp.",
        "",
        "| format | bytes | accuracy | loss | KL, mean | KL, largest | other first |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in found["rows"]:
        numbers = [f"{entry['bytes']:,}", f"{entry['accuracy']:.3f}", f"{entry['nll']:.4f}"]
        numbers += [f"{entry['mean_kl']:.1e}", f"{entry['max_kl']:.1e}", f"{entry['flips']:.3f}"]
        lines.append("| " + " | ".join([entry["format"], *numbers]) + " |")
    lines += ["", f"Versions: {', '.join(f'{k} {v}' for k, v in found['versions'].items())}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=400)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    source = run_source(arguments.run, data=arguments.data)
    table = Dataset.open(arguments.data).events("test")
    targets = natural_windows(table, source.layout.history_length, PER_USER, arguments.windows, 0)
    truth = table.behavior[targets].astype(np.int64)
    rows: list[dict[str, Any]] = []
    reference: Floats | None = None
    for number, each in enumerate(FORMATS):
        out = arguments.work / (f"{number}.gguf" if isinstance(each.made, str) else f"{number}-onnx")
        export(source, each.made, out)
        raw = scores(out, table, targets)
        reference = raw if reference is None else reference
        rows.append(row(each.title, bundle_bytes(out), raw, reference, truth))
    found = {
        "recipe": source.training.get("name"),
        "windows": len(targets),
        "rows": rows,
        "versions": {name: version(name) for name in PACKAGES},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "onnx_formats.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "onnx_formats.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found))


if __name__ == "__main__":
    main()
