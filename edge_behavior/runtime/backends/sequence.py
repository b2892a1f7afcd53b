"""The inference engine of sequence models: a forward pass in NumPy, no llama.cpp. See `Backend`.

Tokens are those of `sequence.tokens`, and the tokens that it counts as evaluated are positions: events, and the start.
It keeps no cache but the ids of the prompt: every call evaluates its prompt whole.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.bundle.sequence_file import read_sequence
from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.base import Row, reusable
from edge_behavior.runtime.lifetime import Lifetime
from edge_behavior.runtime.sequence.network import SequenceNetwork
from edge_behavior.runtime.sequence.tokens import EventTokens


class SequenceBackend:
    """A `Backend` of a sequence model's GGUF file.

    Args:
        path: The file; verified by the caller.
        manifest: What has to describe it; None for a file that is no bundle yet.

    Raises:
        EdgebError: no sequence model, or damaged, or another's manifest.
    """

    def __init__(self, path: Path, manifest: Manifest | None = None) -> None:
        self._lifetime = Lifetime(self)
        file = read_sequence(path)
        if manifest is not None:
            file.check(manifest, path)
        self._shape, self._tokens = file.shape, EventTokens(file.shape, file.labels, file.places)
        self._network = SequenceNetwork(file.shape, file.tensors)
        self._held: list[int] = []
        self._seconds = 0.0

    @property
    def n_vocab(self) -> int:
        """Candidates, start, hour buckets, weekdays and places; logits of all but candidates are -inf."""
        self._lifetime.check()
        return self._tokens.size

    @property
    def capacity(self) -> int:
        """The start, L events, a question, and room for one more token, the answer."""
        self._lifetime.check()
        return capacity(self._tokens, self._shape.length)

    @property
    def held(self) -> list[int]:
        """Ids of the last prompt."""
        self._lifetime.check()
        return self._held

    @property
    def fingerprint(self) -> str:
        """Engine and architecture."""
        self._lifetime.check()
        return f"numpy {np.__version__}, {self._shape.architecture}"

    @property
    def decode_seconds(self) -> float:
        """Wall time inside the network."""
        self._lifetime.check()
        return self._seconds

    def tokenize(self, text: str) -> list[int]:
        """Ids of a segment; see `EventTokens.encode`."""
        self._lifetime.check()
        return self._tokens.encode(text)

    def prefill(
        self, ids: Sequence[int], trie: LabelTrie | None = None, nodes: Sequence[int] = (), spare: Sequence[int] = ()
    ) -> tuple[Row, int]:
        """Hold `ids`; see `Backend`. Hints are ignored: a label is one token, and its row is the prompt's.

        Raises:
            EdgebError: more tokens or events than the model takes.
        """
        self._lifetime.check()
        reusable([], ids, self.capacity)
        row, count = self._row(ids)
        self._held = list(ids)
        return row, count

    def branch(self, trie: LabelTrie, nodes: Sequence[int]) -> tuple[Sequence[Row], int]:
        """Evaluate the held prompt with the tokens of each node's path behind it; see `Backend`."""
        self._lifetime.check()
        rows, count = [], 0
        for node in nodes:
            row, evaluated = self._row([*self._held, *(int(trie.tokens[n]) for n in trie.ancestors(node))])
            rows.append(row)
            count += evaluated
        return rows, count

    def at_hand(self, trie: LabelTrie) -> Collection[int]:
        """None."""
        self._lifetime.check()
        return ()

    def save_state(self) -> bytes:
        """b"": there is no cache."""
        self._lifetime.check()
        return b""

    def load_state(self, ids: Sequence[int], state: bytes) -> bool:
        """False: there is no saved state."""
        self._lifetime.check()
        self._held = []
        return False

    def close(self) -> None:
        """Refuse further calls."""
        self._lifetime.close()
        self._held = []

    def _row(self, ids: Sequence[int]) -> tuple[Row, int]:
        """Logits [V] after some ids, and the positions evaluated."""
        begun = perf_counter()
        at = self._tokens.positions(ids)
        count, most = len(at.behavior), self._shape.length
        events = int((at.behavior != self._tokens.start).sum())
        if events > most or count > most + 1:
            raise EdgebError(f"the prompt has {events} events, the model takes {most}", "shorten the history")
        row = np.full(self._tokens.size, -np.inf, dtype=np.float32)
        row[: self._shape.candidates] = self._network.logits(at)
        self._seconds += perf_counter() - begun
        return row, count


def capacity(tokens: EventTokens, length: int) -> int:
    """Tokens of the longest prompt over `length` events, and of its answer."""
    return 1 + (length + 1) * tokens.per_event
