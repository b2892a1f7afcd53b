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

from edge_behavior.bundle.litert_graph import LiteRtGraph, embed_name, first_name, step_name
from edge_behavior.runtime.litert.buffers import Floats32, SlotCache, aligned, aligned_stack
from edge_behavior.runtime.litert.calls import Call, planner_of
from edge_behavior.runtime.litert.inputs import Tokens, rotations, window_reach, write_first_mask, write_mask


class Signatures(Protocol):
    """A compiled model."""

    def bind(
        self, name: str, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> Callable[[], None]:
        """A function that runs a signature once, reading and writing these arrays."""


@dataclass(frozen=True)
class _Bound:
    """The signatures of one size and kind, and the arrays that they read and write.

    Attributes:
        tokens: int32 [1, N].
        inputs: By the tensor's name, but the cache.
        new_rows: [2 · layers, 1, G, N, H].
        logits: [1, N, V]; None of one that gives none.
        embed: Makes the embeddings.
        run: Evaluates them.
    """

    tokens: NDArray[np.int32]
    inputs: dict[str, Floats32]
    new_rows: Floats32
    logits: Floats32 | None
    embed: Callable[[], None]
    run: Callable[[], None]


class Evaluator:
    """Evaluates tokens into a cache of its own.

    Args:
        graph: What the file says of its graph.
        signatures: The compiled model.

    Attributes:
        cache: Keys and values by slot.
        positions: [C] rotary position of what each slot holds.
        seconds: Wall time spent inside the model.
        calls: How many calls were made.
        tokens: How many tokens they evaluated.
    """

    def __init__(self, graph: LiteRtGraph, signatures: Signatures) -> None:
        self._graph, self._signatures = graph, signatures
        self.cache = SlotCache(graph.layers, graph.kv_heads, graph.cache, graph.head_dim)
        self.positions = np.zeros(graph.cache, dtype=np.int32)
        self.seconds, self.calls, self.tokens = 0.0, 0, 0
        self._planner = planner_of(graph)
        # Made when first needed: logits of a large size take much memory, and many bundles are never asked for them.
        self._bound: dict[tuple[int, bool], _Bound] = {}
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
        return self.run(self._plan(len(tokens), silent, int(tokens.positions[0])), tokens, silent)

    def room(self, count: int, silent: int, position: int) -> int:
        """How many more tokens the calls for a pass could hold.

        Args:
            count: Tokens of the pass; 0 for none.
            silent: As for `evaluate`.
            position: Rotary position of the first token.
        """
        return sum(call.size - (call.stop - call.start) for call in self._plan(count, silent, position)[-1:])

    def _plan(self, count: int, silent: int, position: int) -> list[Call]:
        # A prompt from its beginning: each of the silent tokens sees the slots up to its own.
        return self._planner.plan(count, silent if position == 0 else 0)

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
        self._bound.clear()
        del self.cache

    def _run(self, call: Call, tokens: Tokens) -> Floats32 | None:
        """Run one call; its logits [N, V], of the padding as well, or None of a call that gives none."""
        bound = self._bound_to(call)
        count = len(tokens)
        bound.tokens[0, :count] = tokens.ids
        bound.tokens[0, count:] = 0
        for suffix, (cosines, sines) in self._tables.items():
            for name, table in (("cos", cosines), ("sin", sines)):
                bound.inputs[name + suffix][0, :count] = table[tokens.positions]
                bound.inputs[name + suffix][0, count:] = table[0]
            if not call.first:
                reach = None
                if suffix and self._graph.sliding is not None:
                    reach = window_reach(tokens.positions, self.positions, self._graph.sliding.window)
                write_mask(bound.inputs["mask" + suffix][0, 0], tokens, reach)
        started = perf_counter()
        bound.embed()
        bound.run()
        self.seconds += perf_counter() - started
        self.calls += 1
        self.tokens += count
        self.cache.store(bound.new_rows, tokens.slots)
        return None if bound.logits is None else bound.logits[0]

    def _bound_to(self, call: Call) -> _Bound:
        key = (call.size, call.first)
        if key not in self._bound:
            self._bound[key] = self._bind(call.size, call.first)
        return self._bound[key]

    def _bind(self, size: int, first: bool) -> _Bound:
        graph = self._graph
        inputs = {"embeddings": aligned((1, size, graph.hidden), np.float32)}
        for suffix in self._tables:
            inputs["mask" + suffix] = aligned((1, 1, size, size if first else graph.cache + size), np.float32)
            inputs["cos" + suffix] = aligned((1, size, graph.head_dim), np.float32)
            inputs["sin" + suffix] = aligned((1, size, graph.head_dim), np.float32)
            if first:
                # The same in every call.
                window = graph.sliding.window if suffix and graph.sliding is not None else None
                write_first_mask(inputs["mask" + suffix][0, 0], window)
        tokens = aligned((1, size), np.int32)
        new_rows = aligned_stack(2 * graph.layers, (1, graph.kv_heads, size, graph.head_dim), np.float32)
        logits = None if first else aligned((1, size, graph.vocabulary), np.float32)
        outputs = _by_layer("new_", new_rows) | ({} if logits is None else {"logits": logits})
        cache = {} if first else _by_layer("", self.cache.tensors)
        embed = self._signatures.bind(embed_name(size), {"tokens": tokens}, {"embeddings": inputs["embeddings"]})
        name = first_name(size) if first else step_name(size)
        run = self._signatures.bind(name, {**inputs, **cache}, outputs)
        return _Bound(tokens, inputs, new_rows, logits, embed, run)


def signature_names(graph: LiteRtGraph) -> list[str]:
    """Signatures that a graph's file must have."""
    return [*map(embed_name, graph.embed_sizes), *map(first_name, graph.first_sizes), *map(step_name, graph.sizes)]


def _by_layer(prefix: str, tensors: Floats32) -> dict[str, Floats32]:
    """Keys and values, which lie in turn, by the signatures' names."""
    return {f"{prefix}{'kv'[i % 2]}_{i // 2}": tensor for i, tensor in enumerate(tensors)}
