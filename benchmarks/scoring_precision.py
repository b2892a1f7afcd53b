"""Scoring a tuned model in bfloat16: what it saves on this CPU, and how far scores move.

    python -m benchmarks.scoring_precision RUN --data DATA

The same windows of the test users are scored by one process, all labels exactly, in turns by

- `float32`: backbone and adapter;
- `bfloat16`: both, as edgeb scores where `backbone.dtype: auto` finds bfloat16 faster;
- `bfloat16, float32 adapter`: the adapter as it is trained;
- `bfloat16, merged`: the adapter added to the backbone's weights, which round its change.

A time is the best of the turns, as a share of float32's. KL, flips of the first label and the largest change of a
log-probability are against float32, over the candidates. Writes results/scoring_precision.json and .md.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.windows import eligible
from edge_behavior.hf.tree_scoring import TorchScorer
from edge_behavior.train.rows.windows import WindowSet, draw_formats
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.stage_list import TUNED
from edge_behavior.train.stages.scoring import EVERYTHING

RESULTS = Path(__file__).parent / "results"
REFERENCE = "float32"
Scores = NDArray[np.float64]


def contenders(run: RunFolder, stage: str) -> dict[str, tuple[RunModels, Any]]:
    """The run's model of a stage in every precision, by name."""
    recipe = run.recipe

    def loaded(dtype: str, change: Callable[[Any], None] = lambda _: None) -> tuple[RunModels, Any]:
        models = RunModels(run, recipe.backbone.model_copy(update={"dtype": dtype}))
        model = models.load(stage)
        change(model)
        return models, model

    def float_adapter(model: Any) -> None:
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.data = weight.data.float()

    return {
        REFERENCE: loaded("float32"),
        "bfloat16": loaded("bfloat16"),
        "bfloat16, float32 adapter": loaded("bfloat16", float_adapter),
        "bfloat16, merged": loaded("bfloat16", lambda model: model.merge_adapter()),
    }


def measure(run: RunFolder, data: Path, windows: int, turns: int, stage: str) -> dict[str, Any]:
    """Time and distance of every precision on `windows` windows."""
    table = Dataset.open(data).events("test")
    possible = eligible(table, run.layout.history_length)
    drawn = np.sort(np.random.default_rng(0).choice(possible, min(windows, len(possible)), replace=False))
    seconds: dict[str, float] = {}
    scores: dict[str, Scores] = {}
    models = contenders(run, stage)
    for _ in range(turns):
        for name, (held, model) in models.items():
            prompts, where = WindowSet(table, drawn, draw_formats(held.encoder, len(drawn), 0)).prompts(
                held.encoder, EVERYTHING
            )
            scorer = TorchScorer(model, held.encoder)
            started = perf_counter()
            scores[name] = log_softmax(scorer.score_shared(prompts).log_probs[where])
            seconds[name] = min(perf_counter() - started, seconds.get(name, np.inf))
    reference = scores[REFERENCE]
    return {
        "cpu": {name: bool(has) for name, has in torch.cpu.get_capabilities().items() if "bf16" in name},
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "windows": len(drawn),
        "labels": reference.shape[1],
        "turns": turns,
        "rows": [
            {
                "precision": name,
                "time": seconds[name] / seconds[REFERENCE],
                "kl": float((np.exp(reference) * (reference - found)).sum(1).mean()),
                "flips": int((found.argmax(1) != reference.argmax(1)).sum()),
                "largest": float(np.abs(found - reference).max()),
            }
            for name, found in scores.items()
        ],
    }


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    has = ", ".join(name for name, present in result["cpu"].items() if present) or "no instructions for bfloat16"
    lines = [
        "# Scoring in bfloat16\n",
        f"{result['windows']} windows of {result['labels']} labels, {result['threads']} threads, torch "
        f"{result['torch']}, a CPU with {has};",
        "`python -m benchmarks.scoring_precision RUN --data DATA` says what is what.\n",
        "| backbone, adapter | time | KL | first label differs | largest change (nats) |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['precision']} | {row['time']:.2f} | {row['kl']:.4f} | {row['flips']} of {result['windows']} "
        f"| {row['largest']:.2f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of `edgeb train`")
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--stage", choices=TUNED, default=TUNED[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    result = measure(RunFolder.open(options.run), options.data, options.windows, options.turns, options.stage)
    (options.out / "scoring_precision.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (options.out / "scoring_precision.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
