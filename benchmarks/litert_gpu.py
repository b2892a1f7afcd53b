"""Every label of some windows on LiteRT's GPU accelerator, against the CPU, over one bundle.

    python -m benchmarks.litert_gpu --run RUN --work FOLDER

`--run` is a finished run (or one whose `--stage` is finished) with its dataset. `--work` takes the bundles, which are
exported with a pruned vocabulary and few signatures, and keeps them for the next run. On a machine without a GPU
VK_DRIVER_FILES and VK_ICD_FILENAMES name SwiftShader's vk_swiftshader_icd.json (docs/engines.md), where a call of
SmolLM2-135M takes seconds: times mean nothing there and are not kept. Writes litert_gpu.json and .md under results/,
with what was measured for the weight formats asked for.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.bundle.litert_file import read_litert, read_litert_probe
from edge_behavior.core.scoring import Floats, log_softmax
from edge_behavior.data.dataset import Dataset
from edge_behavior.evaluation.bundles import bundle_log_probs
from edge_behavior.evaluation.protocols import EvaluationWindows, WindowChoice
from edge_behavior.export.litert.options import LiteRtOptions
from edge_behavior.export.litert.pipeline import export_litert
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.run_source import run_source
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.util.markdown import markdown_table

RESULTS = Path(__file__).parent / "results"
NAME = "litert_gpu"
SIZES, FIRST_SIZES = (1, 8, 32), (128,)
# What is compared is one file with itself: how far it is from the trained model is other measurements' matter.
PROFILE = ExportProfile(
    prune="on",
    habits="off",
    calibrate="off",
    population="off",
    parity={"windows": 6, "per_behavior": 0, "enforce": False},
)


def bundle(run: Path, stage: str, work: Path, quant: str) -> Path:
    """The bundle of a weight format, exported if it is not there."""
    out = work / f"{quant}.tflite"
    if not out.exists():
        work.mkdir(parents=True, exist_ok=True)
        options = LiteRtOptions(quant, sizes=SIZES, first_sizes=FIRST_SIZES)
        export_litert(run_source(run, stage), out, options, PROFILE)
    return out


def log_probs(path: Path, accelerator: str, windows: EvaluationWindows) -> Floats:
    """[n, B] log-probabilities over the whole vocabulary, every candidate expanded."""
    with Predictor.load(path, accelerator=accelerator, prefix_cache=False, verify=False) as predictor:
        assert predictor.accelerator == accelerator
        return bundle_log_probs(predictor, windows.table, windows.targets)


def compared(path: Path, windows: EvaluationWindows) -> dict[str, Any]:
    """One bundle on both."""
    opened, probe = read_litert(path), read_litert_probe(path)
    assert probe is not None
    rows = {name: log_probs(path, name, windows) for name in ("cpu", "gpu")}
    cpu, gpu = log_softmax(rows["cpu"]), log_softmax(rows["gpu"])
    off = np.abs(rows["cpu"] - rows["gpu"])
    return {
        "precision": opened.manifest.quantization,
        "file_bytes": path.stat().st_size,
        "vocabulary": opened.graph.vocabulary,
        "layers": opened.graph.layers,
        "hidden": opened.graph.hidden,
        "candidates": len(opened.manifest.candidates),
        "windows": len(off),
        "known_rows_tolerance": probe.tolerance,
        "largest_difference": float(off.max()),
        "mean_difference": float(off.mean()),
        "kl": float((np.exp(cpu) * (cpu - gpu)).sum(1).mean()),
        "same_first": int((cpu.argmax(1) == gpu.argmax(1)).sum()),
        "log_probs": {name: np.round(found, 6).tolist() for name, found in rows.items()},
    }


def markdown(found: dict[str, Any]) -> str:
    """The table of results/litert_gpu.md."""
    heads = (
        "weights", "vocabulary", "windows × labels", "largest Δ log p", "mean Δ log p", "KL", "same first",
        "tolerance of the known rows",
    )  # fmt: skip
    rows = [
        (
            held["precision"],
            f"{held['vocabulary']:,}",
            f"{held['windows']} × {held['candidates']}",
            f"{held['largest_difference']:.2g}",
            f"{held['mean_difference']:.2g}",
            f"{held['kl']:.2g}",
            f"{held['same_first']} of {held['windows']}",
            f"{held['known_rows_tolerance']:.2g}",
        )
        for held in found["bundles"].values()
    ]
    return (
        "# Labels on LiteRT's GPU accelerator, against the CPU\n\n"
        f"`python -m benchmarks.litert_gpu`: SmolLM2-135M, tuned; ai-edge-litert {found['ai_edge_litert']}, Vulkan "
        f"driver {found['driver']}, float32 on the GPU.\nLog-probabilities of every label over the whole (pruned) "
        "vocabulary, in nats. With int8 the CPU rounds activations to\n8 bits and the GPU does not, so that they "
        "differ as two roundings of one model do. The known rows were checked before.\n\n"
        + "\n".join(markdown_table(heads, rows))
        + "\n"
    )


def main() -> None:
    """Export what is missing, compare, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run folder of `edgeb train`, with its dataset")
    parser.add_argument("--stage", default="b_tuning", help="b_tuning, a_tuning or untuned")
    parser.add_argument("--work", type=Path, required=True, help="where the bundles are, or are written")
    parser.add_argument("--quants", nargs="+", default=["q8", "f32"], help="weight formats, measured one by one")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    source = run_source(given.run, given.stage)
    assert source.data is not None, "the run's dataset is gone"
    choice = WindowChoice(per_user=1, limit=given.windows)
    length = source.layout.history_length
    windows = EvaluationWindows.draw("natural", Dataset.open(source.data).events("test"), length, choice)
    driver = Path(os.environ.get("VK_DRIVER_FILES", "the system's")).name
    found: dict[str, Any] = {"ai_edge_litert": version("ai-edge-litert"), "driver": driver, "bundles": {}}
    for quant in given.quants:
        found["bundles"][quant] = compared(bundle(given.run, given.stage, given.work, quant), windows)
        (given.out / f"{NAME}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (given.out / f"{NAME}.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
