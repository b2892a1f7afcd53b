"""What a predictor needs of an inference engine: tokens in, logit rows out, one cached prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_behavior.trie import LabelTrie


class Backend(Protocol):
    """An engine that holds one prompt in its cache and can look one label trie ahead of it.

    Not thread-safe: `Predictor` takes one call at a time.
    """

    @property
    def n_vocab(self) -> int:
        """Width of a logit row."""

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text: no special token is added or parsed."""

    def prefill(self, ids: Sequence[int]) -> tuple[NDArray[np.float32], int]:
        """Make the cache hold exactly `ids`, paying only for what follows the common prefix with what it held.

        Returns:
            Logits [V] after the last id, and the number of tokens evaluated (at least one).
        """

    def branch(self, trie: LabelTrie, nodes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Evaluate trie nodes after the cached prompt, each seeing the prompt and its own ancestors only.

        `nodes` is sorted and holds every node's parent, the root excepted. The cache is left as it was.

        Returns:
            Logits [len(nodes), V].
        """

    def close(self) -> None:
        """Free native memory; the backend cannot be used afterwards."""
