"""The probability of a label, p(y|x), defined once for training, metrics, parity and runtime.

`exact` scoring normalizes every token over the vocabulary, `masked` scoring over the tokens the label trie allows. Both
work on what a backend reads off its logits: the logit of every trie node's token, and the log-sum-exp over the
vocabulary at every inner node. Leading dimensions are batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError, nearest

Floats = NDArray[np.float64]
SCORINGS = ("exact", "masked")
# Bound on the tokens (prompts and tries) of one forward pass that scores many prompts.
TOKENS_PER_PASS = 8_192


def check_scoring(name: str) -> str:
    """Return `name`; raises EdgebError unless it is a known scoring."""
    if name not in SCORINGS:
        raise EdgebError(f"unknown scoring '{name}'", nearest(name, SCORINGS))
    return name


def log_softmax(scores: Floats) -> Floats:
    """Log-softmax over the last axis, in float64."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float64)


def row_log_probs(row: NDArray[np.float32], tokens: NDArray[np.int32], scoring: str) -> Floats:
    """Log-probability [c] of a node's children's tokens, from the node's logits [V].

    `exact` normalizes over the vocabulary, `masked` over the given tokens.
    """
    logits = row[tokens].astype(np.float64)
    if scoring == "masked":
        return log_softmax(logits)
    top = row.max()
    shifted = np.subtract(row, top)
    np.exp(shifted, out=shifted)
    # Pairwise summation keeps float32 within a few ulp.
    return np.asarray(logits - (float(top) + np.log(float(shifted.sum()))), dtype=np.float64)


def exact_log_probs(trie: LabelTrie, token_logits: Floats, row_logsumexp: Floats) -> Floats:
    """Log-probability of each candidate's tokens and terminator under the full vocabulary.

    log p(y|x) = Σ_s log P(y_s | x, y_<s), the quantity that Eq. 1 of the paper trains. Neither renormalized over B nor
    normalized by length: `log_softmax` of the result is the distribution over the candidates.

    Args:
        token_logits: [..., N] logit of each node's token after its parent; the root's entry is ignored.
        row_logsumexp: [..., M] log-sum-exp over the vocabulary after each node of `trie.inner`, in that order.

    Returns:
        [..., B] in candidate order.
    """
    row_of_node = np.searchsorted(trie.inner, trie.parents[1:])
    edges = token_logits[..., 1:].astype(np.float64) - row_logsumexp[..., row_of_node]
    return _path_sums(trie, edges)


def _path_sums(trie: LabelTrie, edges: Floats) -> Floats:
    total = np.zeros((*edges.shape[:-1], len(trie)), dtype=np.float64)
    for depth in range(1, int(trie.depths[-1]) + 1):
        nodes = np.flatnonzero(trie.depths == depth)
        total[..., nodes] = total[..., trie.parents[nodes]] + edges[..., nodes - 1]
    return np.asarray(total[..., trie.leaves], dtype=np.float64)
