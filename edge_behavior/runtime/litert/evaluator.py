"""Evaluates new tokens with a LiteRT model: plans the calls, makes what they take, and keeps what they give.

Knows slots, positions and what sees what; prompts and label tries are the backend's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.litert_graph import LiteRtGraph, embed_name, fill_name, step_name
from edge_behavior.runtime.litert.buffers import Floats32, SlotCache, aligned, aligned_stack
from edge_behavior.runtime.litert.calls import Call, CallPlanner, head_share, proportional_costs
from edge_behavior.runtime.litert.inputs import Tokens, rotations, window_reach, write_mask


class Signatures(Protocol):
    """A compiled model."""

    def bind(
        self, name: str, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> Callable[[], None]:
        """A function that runs a signature once, reading and writing these arrays."""


@dataclass(frozen=True)
class _Size:
    """Arrays that the signatures of one size share, and those signatures as functions."""

    tokens: NDArray[np.int32]
    inputs: dict[str, Floats32]
    new_rows: Floats32
    embed: Callable[[], None]


class Evaluator:
    """Evaluates tokens into a cache of its own.

    Args:
        graph: What the file says of its graph.
        signatures: The compiled model.

    Attributes:
        cache: Keys and values by slot.
        positions: [C] rotary position of what each slot holds.
        seconds: Wall time spent inside the model.
    """

    def __init__(self, graph: LiteRtGraph, signatures: Signatures) -> None:
        self._graph, self._signatures = graph, signatures
        self.cache = SlotCache(graph.layers, graph.kv_heads, graph.cache, graph.head_dim)
        self.positions = np.zeros(graph.cache, dtype=np.int32)
        self.seconds = 0.0
        fills = proportional_costs(graph.fill_sizes, 1 - head_share(graph.layers, graph.hidden, graph.vocabulary))
        self._planner = CallPlanner(proportional_costs(graph.sizes), fills)
        # Made when first needed: logits of a large size take much memory, and many bundles are never asked for them.
        self._sizes: dict[int, _Size] = {}
        self._runs: dict[tuple[int, bool], tuple[Callable[[], None], Floats32 | None]] = {}
        # A position is below the number of slots, since whatever a token sees has a slot as well.
        self._tables = {"": rotations(graph.rope, graph.cache)}
        if graph.sliding is not None:
            self._tables["_local"] = rotations(graph.sliding.rope, graph.cache)

    def evaluate(self, tokens: Tokens, silent: int) -> list[Floats32]:
        """Evaluate a pass of new tokens, at least one, and put them into their slots.

        Args:
            tokens: The tokens, each after those that it sees.
            silent: How many of them, the first ones, need no logits; fewer than there are.

        Returns:
            Logits [V] of each of the others, valid until the next call.
        """
        return self.run(self._planner.plan(len(tokens), silent), tokens, silent)

    def run(self, calls: Sequence[Call], tokens: Tokens, silent: int) -> list[Floats32]:
        """As `evaluate`, by given calls, which together hold the tokens, in order."""
        self.positions[tokens.slots] = tokens.positions
        rows: list[Floats32] = []
        for call in calls:
            logits = self._run(call, tokens.part(call.start, call.stop))
            if logits is not None:
                wanted = logits[max(0, silent - call.start) : call.stop - call.start]
                # The next call of this size overwrites them.
                rows.extend(wanted if call is calls[-1] else wanted.copy())
        return rows

    def close(self) -> None:
        """Free cache and arrays."""
        self._runs.clear()
        self._sizes.clear()
        del self.cache

    def _run(self, call: Call, tokens: Tokens) -> Floats32 | None:
        """Run one call; its logits [N, V], of the padding as well, or None of a call that gives none."""
        size = self._size(call.size)
        run, logits = self._bound(call, size)
        count = len(tokens)
        size.tokens[0, :count] = tokens.ids
        size.tokens[0, count:] = 0
        for suffix, (cosines, sines) in self._tables.items():
            for name, table in (("cos", cosines), ("sin", sines)):
                size.inputs[name + suffix][0, :count] = table[tokens.positions]
                size.inputs[name + suffix][0, count:] = table[0]
            reach = None
            if suffix and self._graph.sliding is not None:
                reach = window_reach(tokens.positions, self.positions, self._graph.sliding.window)
            write_mask(size.inputs["mask" + suffix][0, 0], tokens, reach)
        started = perf_counter()
        size.embed()
        run()
        self.seconds += perf_counter() - started
        self.cache.store(size.new_rows, tokens.slots)
        return None if logits is None else logits[0]

    def _size(self, size: int) -> _Size:
        if size not in self._sizes:
            graph = self._graph
            inputs = {"embeddings": aligned((1, size, graph.hidden), np.float32)}
            for suffix in self._tables:
                inputs["mask" + suffix] = aligned((1, 1, size, graph.cache + size), np.float32)
                inputs["cos" + suffix] = aligned((1, size, graph.head_dim), np.float32)
                inputs["sin" + suffix] = aligned((1, size, graph.head_dim), np.float32)
            tokens = aligned((1, size), np.int32)
            new_rows = aligned_stack(2 * graph.layers, (1, graph.kv_heads, size, graph.head_dim), np.float32)
            outputs = {"embeddings": inputs["embeddings"]}
            embed = self._signatures.bind(embed_name(size), {"tokens": tokens}, outputs)
            self._sizes[size] = _Size(tokens, inputs, new_rows, embed)
        return self._sizes[size]

    def _bound(self, call: Call, size: _Size) -> tuple[Callable[[], None], Floats32 | None]:
        """The signature of a call as a function, and the array that its logits [1, N, V] go to."""
        key = (call.size, call.logits)
        if key not in self._runs:
            graph = self._graph
            outputs = _by_layer("new_", size.new_rows)
            logits = aligned((1, call.size, graph.vocabulary), np.float32) if call.logits else None
            if logits is not None:
                outputs["logits"] = logits
            name = step_name(call.size) if call.logits else fill_name(call.size)
            inputs = {**size.inputs, **_by_layer("", self.cache.tensors)}
            self._runs[key] = (self._signatures.bind(name, inputs, outputs), logits)
        return self._runs[key]


def signature_names(graph: LiteRtGraph) -> list[str]:
    """Signatures that a graph's file must have."""
    steps = [name(size) for size in graph.sizes for name in (embed_name, step_name)]
    return [*steps, *map(fill_name, graph.fill_sizes)]


def _by_layer(prefix: str, tensors: Floats32) -> dict[str, Floats32]:
    """Keys and values, which lie in turn, by the signatures' names."""
    return {f"{prefix}{'kv'[i % 2]}_{i // 2}": tensor for i, tensor in enumerate(tensors)}
