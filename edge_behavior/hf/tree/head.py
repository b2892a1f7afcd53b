"""A model's output layer, a tile of rows at a time: keeps the label steps' log-probabilities and no logits.

Knows the trie's shape, no prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_behavior.core.scoring import Floats
from edge_behavior.core.trie import LabelTrie

# Rows of logits, each as wide as the vocabulary, in memory at once.
TILE_ROWS = 256
# Rows of them that are normalized at once: on a CPU, its caches should hold them in float32.
_NORMALIZED_ROWS = {"cpu": 32}

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Steps:
    """Log-probabilities of the steps from trie nodes to their children, prompt after prompt.

    Attributes:
        prompts: [R] number of the prompt that each node was evaluated after, ascending.
        nodes: [R] the nodes; the root is the end of a prompt.
        first_child: [R + 1] where each node's children begin.
        children: [C] all children of these nodes.
        log_probs: [C] log-probability, over the vocabulary, of the step to each child.
        states: [roots, H] input of the output layer at each root.
    """

    prompts: Ints
    nodes: Ints
    first_child: Ints
    children: Ints
    log_probs: Floats
    states: NDArray[np.float32]

    def of(self, prompt: int) -> tuple[Ints, Ints, Floats]:
        """Nodes, children and log-probabilities of one prompt."""
        start, stop = np.searchsorted(self.prompts, [prompt, prompt + 1])
        children = slice(self.first_child[start], self.first_child[stop])
        return self.nodes[start:stop], self.children[children], self.log_probs[children]


class TiledHead:
    """Replaces a model's output layer: computes logits a tile of rows at a time and keeps only what scoring needs.

    A context manager: inside it, the layer's `forward` is this object's. The model still calls the layer itself, so
    hooks that move, gather or cast weights (PEFT, accelerate, FSDP) keep working.

    Args:
        head: The output layer, `model.get_output_embeddings()`.
        trie: Determines which tokens are needed after which node.
    """

    def __init__(self, head: Any, trie: LabelTrie) -> None:
        self._head, self._own = head, None
        self._tokens = trie.tokens.astype(np.int64)
        # Children of all nodes, parent after parent.
        self._children = 1 + np.argsort(trie.parents[1:], kind="stable")
        self._count = np.bincount(trie.parents[1:], minlength=len(trie))
        self._first = np.cumsum(self._count) - self._count
        self._nodes = self._prompts = np.empty((0, 0), dtype=np.int64)
        self._found: Steps | None = None

    def __enter__(self) -> TiledHead:
        self._own = self._head.__dict__.get("forward")
        self._forward = self._head.forward
        self._head.forward = self._score
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is None:
            del self._head.forward
        else:
            self._head.forward = self._own

    def expect(self, prompts: Ints, nodes: Ints) -> None:
        """Say what the next forward pass evaluates.

        Args:
            prompts: [n, T] number of the prompt of each position of the n sequences.
            nodes: [n, T] trie nodes, the root at the end of a prompt; -1 where no logits are wanted.
        """
        self._prompts, self._nodes = prompts, nodes

    def found(self) -> Steps:
        """The steps after the nodes of the last forward pass, which are released."""
        found, self._found = self._found, None
        assert found is not None, "no forward pass"
        return found

    def _score(self, states: torch.Tensor) -> torch.Tensor:
        """Score hidden states [n, T, H]; the returned logits are empty."""
        kept = np.flatnonzero(self._nodes >= 0)
        prompts = self._prompts.reshape(-1)[kept]
        order = np.argsort(prompts, kind="stable")
        kept, prompts = kept[order], prompts[order]
        nodes = self._nodes.reshape(-1)[kept]
        counts = self._count[nodes]
        before = np.concatenate([[0], np.cumsum(counts)])
        children = self._children[_spans(self._first[nodes], counts)]
        device = states.device
        flat = states.reshape(-1, states.shape[-1])[torch.from_numpy(kept).to(device)]
        rows = torch.from_numpy(np.repeat(np.arange(len(nodes)), counts)).to(device)
        tokens = torch.from_numpy(self._tokens[children]).to(device)
        found = torch.empty(len(children), device=device)
        for start in range(0, len(flat), TILE_ROWS):
            stop = min(start + TILE_ROWS, len(flat))
            logits = self._forward(flat[start:stop])
            needed = slice(int(before[start]), int(before[stop]))
            own = rows[needed] - start
            found[needed] = logits[own, tokens[needed]].float() - _log_normalizers(logits)[own]
        roots = flat[torch.from_numpy(np.flatnonzero(nodes == 0)).to(device)].float().cpu().numpy()
        self._found = Steps(prompts, nodes, before, children, found.double().cpu().numpy(), roots)
        return states[..., :0]


def _log_normalizers(logits: torch.Tensor) -> torch.Tensor:
    """[n] logsumexp of each row of logits [n, V], in float32."""
    parts = torch.split(logits, _NORMALIZED_ROWS.get(logits.device.type, TILE_ROWS))
    return torch.cat([torch.logsumexp(part.float(), -1) for part in parts])


def _spans(starts: Ints, counts: Ints) -> Ints:
    """All positions of spans that are given by their start and length, span after span."""
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(np.repeat(starts, counts) + within, dtype=np.int64)
