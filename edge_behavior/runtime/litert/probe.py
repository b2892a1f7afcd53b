"""Checks an accelerator by a bundle's known rows, signature by signature, before anything is answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_behavior.bundle.litert_file import read_litert_probe
from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.bundle.litert_probe import LiteRtProbe
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.accelerator import Accelerator, in_words
from edge_behavior.runtime.litert.calls import Call
from edge_behavior.runtime.litert.evaluator import Evaluator
from edge_behavior.runtime.litert.inputs import Tokens

_HINTS = {
    "gpu": "use the CPU, or export with --prune on: GPUs limit how many tokens the head can have",
    "npu": "use the CPU, or export it again with --npu",
    "npu-emulated": "use the CPU, or export it again with --npu",
}


def known_rows(path: Path, graph: LiteRtGraph, accelerator: Accelerator) -> LiteRtProbe:
    """The rows to check an accelerator by, read before it is given the model.

    Raises:
        EdgebError: the bundle has none, or its graph is made for other accelerators.
    """
    probe = read_litert_probe(path)
    if probe is None or len(probe.ids) > graph.cache:
        raise EdgebError(
            f"{path} has no known rows to check the {in_words(accelerator)} by", "export it again, or use the CPU"
        )
    if accelerator not in probe.accelerators:
        raise EdgebError(
            f"{path} was not exported for the {in_words(accelerator)}", "export it with norm: apart, or use the CPU"
        )
    return probe


def check_rows(
    path: Path,
    probe: LiteRtProbe,
    graph: LiteRtGraph,
    evaluator: Evaluator,
    accelerator: Accelerator,
    tolerance: float | None = None,
) -> None:
    """Refuse an accelerator that computes other rows than the bundle's; overwrites the cache's first slots.

    Args:
        path: The bundle.
        probe: What `known_rows` gave.
        graph: Its graph.
        evaluator: Of that graph, on the accelerator.
        accelerator: Its name.
        tolerance: Largest difference that is no fault, nats; None for the bundle's.

    Raises:
        EdgebError: the accelerator's rows differ by more than that.
    """
    limit = probe.tolerance if tolerance is None else tolerance
    for size, off in row_differences(probe, graph, evaluator):
        if not off <= limit:
            raise EdgebError(
                f"{path}: the {in_words(accelerator)} computes other answers than the CPU in calls of {size} "
                f"tokens (log-probabilities off by {off:.3g}, at most {limit:.3g} is expected)",
                _HINTS[accelerator],
            )


def row_differences(probe: LiteRtProbe, graph: LiteRtGraph, evaluator: Evaluator) -> Iterator[tuple[int, float]]:
    """How far an accelerator is from the known rows, by every signature: new tokens per call, largest difference, nats.

    Args are those of `check_rows`.
    """
    count = len(probe.ids)
    order = np.arange(count, dtype=np.int32)
    visible = np.arange(graph.cache)[None, :] <= order[:, None]
    tokens = Tokens(np.array(probe.ids, dtype=np.int32), order, order, visible)
    for calls in probe_plans(graph, count):
        silent = sum(call.stop - call.start for call in calls if call.first)
        off = probe.difference(np.stack([row.copy() for row in evaluator.run(calls, tokens, silent)]), silent)
        yield calls[0].size, off


def probe_plans(graph: LiteRtGraph, count: int) -> Iterator[list[Call]]:
    """Calls that evaluate so many tokens, by every signature, and in two calls at least, so that the cache is read."""
    half = -(-count // 2)

    def steps(size: int, first: int) -> list[Call]:
        taken = min(size, half)
        return [Call(size, False, start, min(start + taken, count)) for start in range(first, count, taken)]

    for size in graph.sizes:
        yield steps(size, 0)
    for size in graph.first_sizes:
        first = min(size, half)
        yield [Call(size, True, 0, first), *steps(graph.sizes[-1], first)]
