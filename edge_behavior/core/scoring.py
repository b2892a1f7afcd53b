"""The probability of a label, p(y|x), defined once for training, metrics, parity and runtime.

log p(y|x) = Σ_s log P(y_s | x, y_<s) over the label's tokens and terminator, neither renormalized over the candidates
nor normalized by length. `exact` scoring, which Eq. 1 of the paper trains, normalizes every token over the vocabulary,
`masked` scoring over the tokens that the label trie allows. `log_softmax` of the result is the distribution over the
candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
