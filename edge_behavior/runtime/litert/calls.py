"""Which signatures evaluate a number of new tokens: the cheapest calls. Knows no engine.

A call takes the time of its signature's size, however few tokens it was given, and something for being a call: the
weights are read once per call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# What a call costs before its first token, in tokens. Fitted to SmolLM2-135M in int8 on a CPU, where calls of 1, 4, 8,
# 16, 32 and 128 tokens take 5.4, 7, 11, 15, 19 and 48 ms; models of 0.5B and 1.5B come to 20 and 22.
CALL_COST = 16.0
# Weights of a usual layer, in squares of the hidden size: 11 to 18 in SmolLM2 and Qwen2.
_LAYER_SQUARES = 14


@dataclass(frozen=True)
class Call:
    """One run of a signature.

    Attributes:
        size: The signature's number of new tokens.
        logits: Whether it is one that gives logits.
        start: The first token it gets, counted within the pass.
        stop: The token after its last; it gets at most `size`.
    """

    size: int
    logits: bool
    start: int
    stop: int


class CallPlanner:
    """Plans calls over a fixed set of signatures.

    Args:
        steps: Cost of each signature that gives logits, by its size; at least one.
        fills: Cost of each that only fills the cache.
    """

    def __init__(self, steps: Mapping[int, float], fills: Mapping[int, float]) -> None:
        self._steps, self._fills = _Cover(steps), _Cover(fills)
        self._plans: dict[tuple[int, int], list[Call]] = {}

    def plan(self, count: int, silent: int) -> list[Call]:
        """The cheapest calls for a pass, in order.

        Args:
            count: Tokens of the pass.
            silent: How many of them, the first ones, need no logits.
        """
        if (count, silent) not in self._plans:
            self._plans[count, silent] = self._plan(count, silent)
        return self._plans[count, silent]

    def _plan(self, count: int, silent: int) -> list[Call]:
        split = min(range(silent + 1), key=lambda filled: self._fills.cost(filled) + self._steps.cost(count - filled))
        calls, start = [], 0
        for cover, tokens, logits in ((self._fills, split, False), (self._steps, count - split, True)):
            end = start + tokens
            for size in cover.sizes(tokens):
                stop = min(start + size, end)
                calls.append(Call(size, logits, start, stop))
                start = stop
        return calls


class _Cover:
    """The cheapest sizes that together hold a number of tokens; costs nothing for no tokens."""

    def __init__(self, costs: Mapping[int, float]) -> None:
        self._costs = dict(sorted(costs.items()))
        # By number of tokens: the least cost, and one size of the sizes that have it.
        self._least, self._size = [0.0], [0]

    def cost(self, tokens: int) -> float:
        """The least cost; infinite if there are no signatures."""
        for count in range(len(self._least), tokens + 1):
            found = [(cost + self._least[max(0, count - size)], size) for size, cost in self._costs.items()]
            least, size = min(found, default=(float("inf"), 0))
            self._least.append(least)
            self._size.append(size)
        return self._least[tokens]

    def sizes(self, tokens: int) -> list[int]:
        """The sizes that have it, largest first."""
        self.cost(tokens)
        found = []
        while tokens > 0:
            found.append(self._size[tokens])
            tokens -= self._size[tokens]
        return sorted(found, reverse=True)


def proportional_costs(sizes: tuple[int, ...], share: float = 1.0) -> dict[int, float]:
    """Costs in tokens of a CPU.

    Args:
        sizes: The signatures' sizes.
        share: The part of a token's work that they do.
    """
    return {size: CALL_COST + share * size for size in sizes}


def head_share(layers: int, hidden: int, vocabulary: int) -> float:
    """About the part of a token's work that its logits are."""
    return vocabulary / (vocabulary + _LAYER_SQUARES * layers * hidden)
