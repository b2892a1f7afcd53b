"""What a cache of keys and values could save a sequence model in NumPy: a prediction over L events, and over one.

    python -m benchmarks.sequence_cache

With a cache, a session that goes on would evaluate the newest position alone, and attend to the others. A window of one
position takes no more than that: the difference to a whole window is the most that a cache can save. BERT4Rec, which
looks both ways, could keep nothing of an earlier window. CPU time of the thread, taken turn by turn in one process, so
that what else runs does not count; random weights, whose values no time depends on. Written to
results/sequence_cache.json and .md.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any

import numpy as np

from edge_behavior.bundle.sequence_file import ARCHITECTURES, SequenceShape
from edge_behavior.runtime.sequence.network import SequenceNetwork
from edge_behavior.runtime.sequence.tokens import Positions
from edge_behavior.util.markdown import markdown_table

RESULTS = Path(__file__).parent / "results"
LENGTH, HOURS, PLACES = 20, 2, 4
# Width and labels: ours on the simulator's and on the Indian log's, and the widest of the authors'.
SHAPES = ((64, 37), (64, 145), (128, 145))
_REPEATS = 5


def positions(count: int, candidates: int) -> Positions:
    """Any events; the first position is the start."""
    rng = np.random.default_rng(0)
    behavior = np.concatenate([[candidates], rng.integers(0, candidates, count - 1)])
    contexts = np.ones((count, 3), dtype=np.int64)
    return Positions(behavior, contexts, contexts)


def milliseconds(architecture: str, width: int, labels: int, tries: int) -> tuple[float, float]:
    """CPU time of a prediction over the whole window, and over one position."""
    shape = SequenceShape(architecture, labels, LENGTH, width, 2, 2, HOURS, PLACES)
    rng = np.random.default_rng(0)
    network = SequenceNetwork(shape, {name: rng.normal(0, 0.1, size) for name, size in shape.tensors().items()})
    asked = [positions(LENGTH + 1, labels), positions(1, labels)]
    taken: list[list[float]] = [[], []]
    for _ in range(tries):
        for own, at in zip(taken, asked, strict=True):
            begun = thread_time()
            for _ in range(_REPEATS):
                network.logits(at)
            own.append(1000 * (thread_time() - begun) / _REPEATS)
    return median(taken[0]), median(taken[1])


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tries", type=int, default=50, help="times that both are measured")
    tries = parser.parse_args().tries
    rows: list[dict[str, Any]] = []
    for architecture in ARCHITECTURES:
        for width, labels in SHAPES:
            whole, one = milliseconds(architecture, width, labels, tries)
            rows.append({"architecture": architecture, "width": width, "labels": labels, "whole": whole, "one": one})
    document = {"numpy": np.__version__, "processor": platform.processor() or platform.machine(), "ms": rows}
    (RESULTS / "sequence_cache.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    heads = ["model", "width", "labels", f"{LENGTH} events, ms", "one position, ms", "a cache saves at most, ms"]
    cells = (
        [f"`{r['architecture']}`", str(r["width"]), str(r["labels"]), f"{r['whole']:.2f}", f"{r['one']:.2f}",
         f"{r['whole'] - r['one']:.2f}"]
        for r in rows
    )  # fmt: skip
    text = [
        "# A cache for sequence models in NumPy", "",
        "`python -m benchmarks.sequence_cache`: CPU time of one thread, medians, two blocks, two heads, float64.", "",
        *markdown_table(heads, cells),
    ]  # fmt: skip
    (RESULTS / "sequence_cache.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
