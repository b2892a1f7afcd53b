"""Which label-trie nodes one decode evaluates. Knows nothing of llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_behavior.core.trie import LabelTrie


@dataclass
class Plan:
    """Trie nodes to evaluate.

    Attributes:
        tips: The last node of each path.
        paths: For each node the nodes from below the root down to it.
        wanted: Nodes whose logits are wanted.
    """

    tips: list[int]
    paths: dict[int, list[int]]
    wanted: set[int]

    @classmethod
    def of(cls, trie: LabelTrie, nodes: Sequence[int]) -> Plan:
        """The plan that evaluates `nodes`."""
        paths = {node: trie.ancestors(node) for node in nodes}
        passed = {step for path in paths.values() for step in path[:-1]}
        return cls([node for node in nodes if node not in passed], paths, set(nodes))

    def part(self, tips: list[int]) -> Plan:
        """The same plan for some of the tips."""
        return Plan(tips, self.paths, self.wanted)
