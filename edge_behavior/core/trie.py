"""The label trie: the candidates' labels as token paths with shared prefixes.

Flat arrays in breadth-first order, so that scoring takes a few vectorized steps per depth and a native runtime can use
the same layout. Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.errors import EdgebError


@dataclass(frozen=True)
class LabelTrie:
    """Token paths of all candidates, each path ending in its terminator.

    Node 0 is the root, the end of the prompt. Nodes are sorted by depth, so that parents precede their children and
    siblings are contiguous.

    Attributes:
        tokens: Token id per node, shape [N]; -1 for the root.
        parents: Parent node per node, shape [N]; -1 for the root.
        depths: Depth per node, shape [N].
        candidates: Candidate whose path ends at the node, else -1, shape [N].
        leaves: Node where each candidate's path ends, shape [B].
        inner: Nodes with children, root first, shape [M]: the positions where exact scoring needs logits.
    """

    tokens: NDArray[np.int32]
    parents: NDArray[np.int32]
    depths: NDArray[np.int32]
    candidates: NDArray[np.int32]
    leaves: NDArray[np.int32]
    inner: NDArray[np.int32]

    @classmethod
    def from_paths(cls, paths: Sequence[Sequence[int]]) -> LabelTrie:
        """Build from one token path per candidate, in candidate order.

        Raises:
            EdgebError: a path is empty, equals another, or is a prefix of another, which the terminator rules out for
                labels that differ.
        """
        tokens, parents, depths, ends = [-1], [-1], [0], [-1]
        reached = [0] * len(paths)
        # Sorted paths make the children of a node contiguous at every depth.
        order = sorted(range(len(paths)), key=lambda i: list(paths[i]))
        for depth in range(max((len(p) for p in paths), default=0)):
            children: dict[tuple[int, int], int] = {}
            for i in order:
                path = paths[i]
                if depth >= len(path):
                    continue
                node = reached[i]
                if ends[node] >= 0:
                    raise EdgebError(f"candidate {ends[node]} is a token prefix of candidate {i}", "rename one label")
                key = (node, path[depth])
                if key not in children:
                    children[key] = len(tokens)
                    tokens.append(path[depth])
                    parents.append(node)
                    depths.append(depth + 1)
                    ends.append(-1)
                reached[i] = children[key]
            for i, path in enumerate(paths):
                if len(path) == depth + 1:
                    if ends[reached[i]] >= 0:
                        raise EdgebError(f"candidates {ends[reached[i]]} and {i} have the same tokens", "rename one")
                    ends[reached[i]] = i
        if any(len(path) == 0 for path in paths) or not paths:
            raise EdgebError("a candidate has no tokens", "check the tokenizer and the label list")
        parent_nodes = np.asarray(parents, dtype=np.int32)
        return cls(
            tokens=np.asarray(tokens, dtype=np.int32),
            parents=parent_nodes,
            depths=np.asarray(depths, dtype=np.int32),
            candidates=np.asarray(ends, dtype=np.int32),
            leaves=np.asarray(reached, dtype=np.int32),
            inner=np.unique(parent_nodes[1:]),
        )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_candidates(self) -> int:
        """Number of candidates B."""
        return len(self.leaves)

    @property
    def evaluated(self) -> NDArray[np.int32]:
        """Inner nodes without the root: the tokens that exhaustive `exact` scoring evaluates."""
        return self.inner[1:]

    @property
    def choices(self) -> NDArray[np.int32]:
        """Nodes that `masked` scoring evaluates: those with several children and their ancestors; not the root."""
        wanted = np.zeros(len(self), dtype=np.bool_)
        wanted[np.flatnonzero(np.bincount(self.parents[1:], minlength=len(self)) > 1)] = True
        for node in range(len(self) - 1, 0, -1):
            if wanted[node]:
                wanted[self.parents[node]] = True
        wanted[0] = False
        return np.flatnonzero(wanted).astype(np.int32)

    def parts(self, most: int) -> list[list[int]]:
        """`evaluated` in parts of `most` nodes or fewer, parents first; a subtree of the root is never divided."""
        # Parents come first, so that the subtree a node is in is known when it is reached.
        tops = list(range(len(self)))
        subtrees: dict[int, list[int]] = {}
        for node in self.evaluated.tolist():
            if self.parents[node]:
                tops[node] = tops[self.parents[node]]
            subtrees.setdefault(tops[node], []).append(node)
        found: list[list[int]] = []
        for subtree in subtrees.values():
            if found and len(found[-1]) + len(subtree) <= most:
                found[-1] += subtree
            else:
                found.append(subtree)
        return [sorted(part) for part in found]

    def path(self, candidate: int) -> list[int]:
        """Token ids of one candidate, terminator included."""
        node, path = int(self.leaves[candidate]), []
        while node:
            path.append(int(self.tokens[node]))
            node = int(self.parents[node])
        return path[::-1]

    def ancestors(self, node: int) -> list[int]:
        """Nodes from just below the root down to `node`."""
        found = []
        while node > 0:
            found.append(node)
            node = int(self.parents[node])
        return found[::-1]
