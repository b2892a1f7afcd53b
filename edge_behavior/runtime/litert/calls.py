"""Which signatures evaluate a number of new tokens: the cheapest calls. Knows no engine.

A call takes the time of its signature's size, however few tokens it was given, and something for being a call: the
weights are read once per call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_behavior.bundle.litert_graph import LiteRtGraph

# What a call costs before its first token, in tokens. Fitted, as the two below, to SmolLM2-135M in int8 on a CPU.
CALL_COST = 18.0
# Attention, in float32, takes so many times a multiply-add of the integer weights.
_FLOAT_COST = 5.5
# Weights of a usual layer, in squares of the hidden size: 11 to 18 in SmolLM2 and Qwen2.
_LAYER_SQUARES = 14


@dataclass(frozen=True)
class Call:
    """One run of a signature.

    Attributes:
        size: The signature's number of new tokens.
        first: Whether it is one for the beginning of a prompt, which gives no logits.
        start: The first token it gets, counted within the pass.
        stop: The token after its last; it gets at most `size`.
    """

    size: int
    first: bool
    start: int
    stop: int


class CallPlanner:
    """Plans calls over a fixed set of signatures.

    Args:
        steps: Cost of each signature that gives logits, by its size; at least one.
        firsts: Cost of each for the beginning of a prompt.
    """

    def __init__(self, steps: Mapping[int, float], firsts: Mapping[int, float]) -> None:
        self._steps, self._firsts = dict(sorted(steps.items())), dict(sorted(firsts.items()))
        # By number of tokens: the least cost of steps, and one size of the sizes that have it.
        self._least, self._size = [0.0], [0]
        self._plans: dict[tuple[int, int], list[Call]] = {}

    def plan(self, count: int, beginning: int) -> list[Call]:
        """The cheapest calls for a pass, in order.

        Args:
            count: Tokens of the pass.
            beginning: How many of them, the first ones, need no logits and follow on nothing.
        """
        if (count, beginning) not in self._plans:
            self._plans[count, beginning] = self._plan(count, beginning)
        return self._plans[count, beginning]

    def _plan(self, count: int, beginning: int) -> list[Call]:
        best, first = self._cost(count), 0
        for size, cost in self._firsts.items():
            found = cost + self._cost(count - min(size, beginning))
            if beginning and found < best:
                best, first = found, size
        start = min(first, beginning)
        calls = [Call(first, True, 0, start)] if first else []
        sizes, left = [], count - start
        while left > 0:
            sizes.append(self._size[left])
            left -= self._size[left]
        for size in sorted(sizes, reverse=True):
            stop = min(start + size, count)
            calls.append(Call(size, False, start, stop))
            start = stop
        return calls

    def _cost(self, tokens: int) -> float:
        for count in range(len(self._least), tokens + 1):
            least, size = min((cost + self._least[max(0, count - size)], size) for size, cost in self._steps.items())
            self._least.append(least)
            self._size.append(size)
        return self._least[tokens]


def planner_of(graph: LiteRtGraph) -> CallPlanner:
    """A planner with the costs of a CPU, in tokens."""
    # Of a token's work, what its logits are, and attending to one slot.
    head = graph.vocabulary / (graph.vocabulary + _LAYER_SQUARES * graph.layers * graph.hidden)
    slot = (1 - head) * _FLOAT_COST * 2 / (_LAYER_SQUARES * graph.hidden)
    steps = {size: CALL_COST + size + size * (graph.cache + size) * slot for size in graph.sizes}
    # About half of what it could attend to lies behind a token.
    firsts = {size: CALL_COST + size * (1 - head) + size * size / 2 * slot for size in graph.first_sizes}
    return CallPlanner(steps, firsts)
