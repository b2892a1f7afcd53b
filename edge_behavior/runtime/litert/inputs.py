"""What a signature takes besides embeddings and cache: the mask, and the rotations of the tokens' positions.

Made by the host, so that the graph knows nothing of trees: a token sees the slots that its row of `visible` names,
whatever their order. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.litert_graph import MASKED
from edge_behavior.runtime.litert.buffers import Floats32


@dataclass(frozen=True)
class Tokens:
    """New tokens of one pass.

    Attributes:
        ids: [n] token ids.
        positions: [n] rotary positions.
        slots: [n] where the cache keeps each; all different.
        visible: [n, C] the slots that each token sees, its own among them. The tokens of a pass see of each other only
            those before them.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    slots: NDArray[np.int32]
    visible: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> Tokens:
        """Some of the tokens."""
        taken = slice(start, stop)
        return Tokens(self.ids[taken], self.positions[taken], self.slots[taken], self.visible[taken])


def write_mask(mask: Floats32, tokens: Tokens, reach: NDArray[np.bool_] | None = None) -> None:
    """Write the additive mask of one call.

    Args:
        mask: [N, C + N], N at least the number of tokens: rows without a token see themselves only.
        tokens: The tokens of the call.
        reach: [n, C] further limits what is seen: a sliding window.
    """
    size, count = len(mask), len(tokens)
    cache = mask.shape[1] - size
    visible = tokens.visible if reach is None else tokens.visible & reach
    among = visible[:, tokens.slots]
    mask.fill(MASKED)
    mask[:count, :cache] = np.where(visible, np.float32(0), np.float32(MASKED))
    # What the call computes itself is not in the cache yet.
    mask[:count, tokens.slots] = MASKED
    mask[:count, cache : cache + count] = np.where(among, np.float32(0), np.float32(MASKED))
    padding = np.arange(count, size)
    mask[padding, cache + padding] = 0


def write_first_mask(mask: Floats32, window: int | None = None) -> None:
    """Write the additive mask of a prompt's beginning.

    Args:
        mask: [N, N].
        window: How many positions a token sees, its own among them; None for all before it.
    """
    positions = np.arange(len(mask), dtype=np.int32)
    seen = positions[:, None] >= positions[None, :]
    if window is not None:
        seen &= window_reach(positions, positions, window)
    mask[...] = np.where(seen, np.float32(0), np.float32(MASKED))


def window_reach(queries: NDArray[np.int32], keys: NDArray[np.int32], window: int) -> NDArray[np.bool_]:
    """[n, C] whether a sliding window of a token at a position reaches a slot's position.

    Args:
        queries: [n] positions of the tokens.
        keys: [C] positions of the slots.
        window: How many positions a token sees, its own among them.
    """
    return queries[:, None] - keys[None, :] < window


def rotations(frequencies: Sequence[float], positions: int) -> tuple[Floats32, Floats32]:
    """Cosines and sines [positions, H] of every position, as `LiteRtGraph.rope` defines them."""
    angles = np.arange(positions, dtype=np.float32)[:, None] * np.asarray(frequencies, dtype=np.float32)
    both = np.concatenate([angles, angles], axis=1)
    return np.cos(both), np.sin(both)
