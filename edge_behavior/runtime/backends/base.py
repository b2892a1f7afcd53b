"""The interface of inference engines: tokens in, logits out, one prompt in the cache, trie nodes evaluated after it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError

# Logits [V] after one token; [n, V] where a docstring says so.
Row = NDArray[np.float32]


class Backend(Protocol):
    """An inference engine that holds one prompt in its cache and evaluates label trie nodes after it.

    Not thread-safe: `Predictor` makes one call at a time. Everything but `close` raises EdgebError once closed, and in
    a process forked after opening. A call interrupted by an exception, Ctrl-C included, leaves the prompt as it was or
    an empty cache.
    """

    @property
    def n_vocab(self) -> int:
        """Size of the vocabulary V."""

    @property
    def capacity(self) -> int:
        """Most tokens that the cache holds: the prompt and the trie nodes evaluated."""

    @property
    def held(self) -> list[int]:
        """Ids of the prompt in the cache. Do not change the list."""

    @property
    def fingerprint(self) -> str:
        """Engine, version and every option that affects what `save_state` writes."""

    @property
    def decode_seconds(self) -> float:
        """Wall time spent evaluating since the engine was opened."""

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text: no special token is added or parsed."""

    def prefill(
        self, ids: Sequence[int], trie: LabelTrie | None = None, nodes: Sequence[int] = (), spare: Sequence[int] = ()
    ) -> tuple[Row, int]:
        """Make the cache hold `ids`, evaluating only what follows the common prefix with what it held.

        Args:
            ids: The prompt.
            trie: The label trie of `nodes`.
            nodes: A hint: trie nodes that `branch` will probably be called for, so that an engine can evaluate them in
                the same pass. `branch` then returns their logits at no cost.
            spare: Further nodes, the likeliest first, which an engine evaluates where that takes no time, now or in
                `branch`.

        Returns:
            Logits [V] after the last id, valid until the next call, and the number of tokens evaluated (at least 1),
            nodes included.

        Raises:
            EdgebError: the prompt does not fit; the cache is unchanged.
        """

    def branch(self, trie: LabelTrie, nodes: Sequence[int]) -> tuple[Sequence[Row], int]:
        """Evaluate trie nodes after the held prompt, each seeing the prompt and its own ancestors only.

        Ancestors not evaluated yet are evaluated with them; all are reused until the prompt changes.

        Returns:
            Logits [V] per node, valid until the next call, and the number of tokens evaluated.

        Raises:
            EdgebError: prompt and nodes do not fit; the held prompt is unchanged.
        """

    def at_hand(self, trie: LabelTrie) -> Collection[int]:
        """Nodes whose logits `branch` returns at no cost; they may be lost when it evaluates others."""

    def save_state(self) -> bytes:
        """The prompt's cache as bytes for `load_state` of an equal fingerprint; b"" if the engine cannot save it."""

    def load_state(self, ids: Sequence[int], state: bytes) -> bool:
        """Restore `ids` from saved bytes; False, and an empty cache, if the engine refuses them."""

    def close(self) -> None:
        """Free native memory, logits included; also done on garbage collection. Closing twice is no error."""


@runtime_checkable
class CountsCalls(Protocol):
    """An engine that evaluates by calls of fixed sizes, and counts them."""

    @property
    def calls(self) -> int:
        """Runs of the model's graph so far."""


def reusable(held: Sequence[int], ids: Sequence[int], capacity: int) -> int:
    """Length of the common prefix of `held` and `ids`; the last token of `ids`, whose logits are needed, never counts.

    Raises:
        EdgebError: the prompt is empty or does not fit.
    """
    if not ids or len(ids) > capacity:
        raise EdgebError(
            f"the prompt has {len(ids)} tokens, the context holds 1 to {capacity}",
            "shorten the place names or the history",
        )
    common = 0
    for known, wanted in zip(held, ids[:-1], strict=False):
        if known != wanted:
            break
        common += 1
    return common
