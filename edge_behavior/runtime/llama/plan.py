"""Which trie nodes one decode evaluates. Knows nothing of llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_behavior.core.trie import LabelTrie


@dataclass
class Plan:
    """Trie nodes to evaluate: the last of each path, the paths, and the nodes whose logits are wanted."""

    tips: list[int]
    paths: dict[int, list[int]]
    wanted: set[int]

    @classmethod
    def of(cls, trie: LabelTrie, nodes: Sequence[int]) -> Plan:
        """What it takes to evaluate `nodes`."""
        paths = {node: trie.ancestors(node) for node in nodes}
        passed = {step for path in paths.values() for step in path[:-1]}
        return cls([node for node in nodes if node not in passed], paths, set(nodes))

    def part(self, tips: list[int]) -> Plan:
        """The part that ends at some of the tips."""
        return Plan(tips, self.paths, self.wanted)
