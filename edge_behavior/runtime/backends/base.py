"""What a predictor needs of an inference engine: tokens in, logit rows out, one held prompt and a look ahead of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError

Row = NDArray[np.float32]


class Backend(Protocol):
    """An engine that holds one prompt in its cache and can look along a label trie from its end.

    Not thread-safe: `Predictor` takes one call at a time. Everything but `close` raises EdgebError once it is closed,
    and in a process that was forked after it was opened. A call that an exception interrupts, Ctrl-C included, leaves
    the prompt held as it was, or an empty cache.
    """

    @property
    def n_vocab(self) -> int:
        """Width of a logit row."""

    @property
    def capacity(self) -> int:
        """Most tokens of a prompt and the trie nodes looked at."""

    @property
    def held(self) -> list[int]:
        """Ids of the prompt in the cache. Do not change the list."""

    @property
    def fingerprint(self) -> str:
        """Engine, version and every option that decides what `save_state` writes."""

    @property
    def decode_seconds(self) -> float:
        """Wall time spent inside the engine's evaluation since it was opened."""

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text: no special token is added or parsed."""

    def prefill(self, ids: Sequence[int], trie: LabelTrie | None = None, nodes: Sequence[int] = ()) -> tuple[Row, int]:
        """Make the cache hold exactly `ids`, paying only for what follows the common prefix with what it held.

        Args:
            ids: The prompt.
            trie: The label trie of `nodes`.
            nodes: A hint: trie nodes that `branch` will probably be asked for, so that an engine can evaluate them in
                the same pass. `branch` then returns them without evaluating anything.

        Returns:
            Logits [V] after the last id, valid until the next call, and the number of tokens evaluated (at least 1),
            nodes included.

        Raises:
            EdgebError: the prompt does not fit; the cache is unchanged.
        """

    def branch(self, trie: LabelTrie, nodes: Sequence[int]) -> tuple[Sequence[Row], int]:
        """Evaluate trie nodes after the held prompt, each seeing the prompt and its own ancestors only.

        Ancestors that are not evaluated yet are evaluated with them; all are reused by later calls until the prompt
        changes.

        Returns:
            Logits [V] per node, valid until the next call, and the number of tokens evaluated.

        Raises:
            EdgebError: prompt and nodes do not fit; the held prompt is unchanged.
        """

    def at_hand(self, trie: LabelTrie) -> Collection[int]:
        """Nodes whose rows `branch` returns without evaluating anything; others go when it evaluates something."""

    def save_state(self) -> bytes:
        """The held prompt's cache as bytes that `load_state` of an equal fingerprint reads; b"" where it cannot."""

    def load_state(self, ids: Sequence[int], state: bytes) -> bool:
        """Hold `ids` from saved bytes; False, and an empty cache, where the engine does not take them."""

    def close(self) -> None:
        """Free native memory, rows included; no error the second time. Also done when the backend is gone."""


def reusable(held: Sequence[int], ids: Sequence[int], capacity: int) -> int:
    """How many tokens of a prompt are held already; fewer than all, since the last one's logits are asked for.

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
