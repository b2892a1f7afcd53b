"""SASRec and BERT4Rec as `baselines.sequence.model` trains them, in NumPy: the logits after a prompt.

Everything is float64. A prompt is evaluated whole: with the widths that ship that takes less time than to keep a cache
of it. Knows no tokens; the phone's `SequenceNetwork` is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import erf, sqrt

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.sequence_file import CONTEXTS, SASREC, SequenceShape
from edge_behavior.runtime.sequence.tokens import Ints, Positions

_EPSILON = 1e-5
_ERF = np.frompyfunc(erf, 1, 1)

Array = NDArray[np.float64]


class SequenceNetwork:
    """The forward pass.

    Args:
        shape: Sizes.
        tensors: Weights by name, as `SequenceShape.tensors` has them.
    """

    def __init__(self, shape: SequenceShape, tensors: Mapping[str, Array]) -> None:
        self._shape, self._tensors = shape, tensors

    def logits(self, at: Positions) -> Array:
        """[B] of the behavior that the prompt asks for.

        Args:
            at: L + 1 positions at most.
        """
        return self._sasrec(at) if self._shape.architecture == SASREC else self._bert4rec(at)

    def _sasrec(self, at: Positions) -> Array:
        x = self._embedded(at.behavior, at.event)
        if self._shape.hour_bucket:
            x = x + self._contexts("target", at.target)
        hidden = np.triu(np.ones((len(x), len(x)), dtype=np.bool_), 1)
        for block in range(self._shape.blocks):
            name = f"blk.{block}"
            query = self._norm(x, f"{name}.attn_norm")
            x = self._norm(query + self._attention(query, x, name, hidden), f"{name}.ffn_norm")
            x = x + self._linear(np.maximum(self._linear(x, f"{name}.ffn_up"), 0), f"{name}.ffn_down")
        state = self._norm(x[-1], "output_norm")
        return np.asarray(self._items @ state, dtype=np.float64)

    def _bert4rec(self, at: Positions) -> Array:
        # The mask stands where the question is; there is no start.
        symbol = self._shape.candidates
        shown = at.behavior != symbol
        behavior = np.append(at.behavior[shown], symbol)
        x = self._norm(self._embedded(behavior, np.vstack([at.event[shown], at.target[-1:]])), "token_embd_norm")
        hidden = np.zeros((len(x), len(x)), dtype=np.bool_)
        for block in range(self._shape.blocks):
            name = f"blk.{block}"
            x = self._norm(x + self._attention(x, x, name, hidden), f"{name}.attn_norm")
            fed = self._linear(_gelu(self._linear(x, f"{name}.ffn_up")), f"{name}.ffn_down")
            x = self._norm(x + fed, f"{name}.ffn_norm")
        state = _gelu(self._linear(x[-1], "output_map"))
        return np.asarray(self._items @ state + self._tensors["output.bias"], dtype=np.float64)

    @property
    def _items(self) -> Array:
        return self._tensors["token_embd.weight"][: self._shape.candidates]

    def _embedded(self, behavior: Ints, event: Ints) -> Array:
        """[T, d]."""
        x = self._tensors["token_embd.weight"][behavior] + self._tensors["position_embd.weight"][: len(behavior)]
        return x + self._contexts("event", event) if self._shape.hour_bucket else x

    def _contexts(self, seen: str, numbers: Ints) -> Array:
        """[T, d] sum of the embeddings of hour bucket, weekday and place."""
        found = [self._tensors[f"{seen}_{kind}.weight"][numbers[:, i]] for i, kind in enumerate(CONTEXTS)]
        return np.asarray(sum(found), dtype=np.float64)

    def _attention(self, query: Array, key: Array, name: str, hidden: NDArray[np.bool_]) -> Array:
        """softmax(QKᵀ/√d_h)V per head, [T, d]; `hidden` [T, T] is where a position must not look."""
        d, heads = self._shape.width, self._shape.heads
        weight, bias = self._tensors[f"{name}.attn_qkv.weight"], self._tensors[f"{name}.attn_qkv.bias"]
        q, k, v = (
            (x @ weight[i * d : (i + 1) * d].T + bias[i * d : (i + 1) * d]).reshape(len(x), heads, -1).swapaxes(0, 1)
            for i, x in enumerate((query, key, key))
        )
        scores = np.where(hidden, -np.inf, q @ k.swapaxes(1, 2) / sqrt(d // heads))
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = shares / shares.sum(-1, keepdims=True) @ v
        return self._linear(mixed.swapaxes(0, 1).reshape(len(query), d), f"{name}.attn_output")

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]

    def _norm(self, x: Array, name: str) -> Array:
        away = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((away * away).mean(-1, keepdims=True) + _EPSILON)
        return np.asarray(away / spread * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"])


def _gelu(x: Array) -> Array:
    return np.asarray(x * (1 + np.asarray(_ERF(x / sqrt(2)), dtype=np.float64)) / 2, dtype=np.float64)
