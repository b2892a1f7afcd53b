"""Scoring and greedy constrained decoding over a whole trie: what searches and grammars are compared with."""

from __future__ import annotations

import numpy as np

from edge_behavior.core.scoring import Floats, log_softmax
from edge_behavior.core.trie import LabelTrie


def exact_log_probs(trie: LabelTrie, token_logits: Floats, row_logsumexp: Floats) -> Floats:
    """Log-probability of each candidate's tokens and terminator under the full vocabulary.

    Args:
        token_logits: [..., N] logit of each node's token after its parent; the root's entry is ignored.
        row_logsumexp: [..., M] log-sum-exp over the vocabulary after each node of `trie.inner`, in that order.

    Returns:
        [..., B] in candidate order.
    """
    row_of_node = np.searchsorted(trie.inner, trie.parents[1:])
    edges = token_logits[..., 1:].astype(np.float64) - row_logsumexp[..., row_of_node]
    return _path_sums(trie, edges)


def masked_log_probs(trie: LabelTrie, token_logits: Floats) -> Floats:
    """Log-probability of each candidate with every node's choice renormalized over its children.

    This is the distribution that grammar-constrained sampling draws from; it sums to 1 over the candidates.
    """
    logits = token_logits.astype(np.float64)
    edges = np.empty_like(logits[..., 1:])
    bounds = np.searchsorted(trie.parents[1:], trie.inner)
    # Breadth-first order makes siblings contiguous.
    for start, stop in zip(bounds, [*bounds[1:], len(trie) - 1], strict=True):
        edges[..., start:stop] = log_softmax(logits[..., start + 1 : stop + 1])
    return _path_sums(trie, edges)


def greedy_candidate(trie: LabelTrie, token_logits: Floats) -> int:
    """The candidate that greedy constrained decoding yields: at each node, the child with the highest logit.

    It need not be the most probable one, under `masked` or `exact`. Ties go to the first child.

    Args:
        token_logits: [N] logit of each node's token after its parent; the root's entry is ignored.
    """
    node = 0
    while trie.candidates[node] < 0:
        first, stop = np.searchsorted(trie.parents[1:], [node, node + 1])
        node = int(first) + 1 + int(np.argmax(token_logits[first + 1 : stop + 1]))
    return int(trie.candidates[node])


def _path_sums(trie: LabelTrie, edges: Floats) -> Floats:
    total = np.zeros((*edges.shape[:-1], len(trie)), dtype=np.float64)
    for depth in range(1, int(trie.depths[-1]) + 1):
        nodes = np.flatnonzero(trie.depths == depth)
        total[..., nodes] = total[..., trie.parents[nodes]] + edges[..., nodes - 1]
    return np.asarray(total[..., trie.leaves], dtype=np.float64)
