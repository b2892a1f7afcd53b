"""Where prompts and trie nodes of a batch attend to, and the keys and values that they share and keep.

A batch is n sequences, right-aligned behind the static part that all of them begin with. Prompts end at one or more
positions of each, and trie nodes are evaluated after every prompt: they attend to the static part, to the sequence as
far as their prompt goes, and to their own ancestors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, DynamicLayer

from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError

Mask = torch.Tensor | dict[str, torch.Tensor]


def attention_windows(config: Any) -> dict[str, int | None]:
    """By kind of layer, how many positions back it attends to, its own included; None for all of them.

    Args:
        config: A Transformers configuration.

    Raises:
        EdgebError: a kind that attends in another way.
    """
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if not getattr(config, "layer_types", None):
        return {"all": window}
    windows = {"full_attention": None, "sliding_attention": window}
    kinds = sorted(set(config.layer_types))
    for kind in kinds:
        if kind not in windows:
            raise EdgebError(
                f"a backbone of type {config.model_type} has layers of {kind}, which label tries are not scored with",
                "take one of full or sliding-window attention, such as Qwen2, Llama or Gemma 3",
            )
    return {kind: windows[kind] for kind in kinds}


class TreeShape:
    """What every batch needs to know of a trie: depths, and which node is whose ancestor.

    Args:
        trie: The label trie.
        device: Where the model is.

    Attributes:
        depths: [E] of `trie.evaluated`.
        reach: [E, E] whether the column's node is the row's node or its ancestor.
    """

    def __init__(self, trie: LabelTrie, device: torch.device) -> None:
        self.depths = torch.from_numpy(trie.depths[trie.evaluated].astype(np.int64)).to(device)
        self.reach = torch.from_numpy(_reach(trie)).to(device)


class TreeBatch:
    """The positions of n sequences and of the trie nodes evaluated after their prompts so far.

    Args:
        shape: Of the trie.
        windows: By kind of layer, as `attention_windows` gives them.
        static: Tokens before every sequence.
        real: [n, L] whether a position of the right-aligned sequences is a token rather than padding.
        ends: [n, P] the position, in 0 … L - 1, of the last token of each prompt of a sequence.
    """

    def __init__(
        self,
        shape: TreeShape,
        windows: dict[str, int | None],
        static: int,
        real: torch.Tensor,
        ends: torch.Tensor,
    ) -> None:
        self._shape, self._windows, self._static, self._real, self._ends = shape, windows, static, real, ends
        # Positions count from each sequence's first real token; padding sits at the first position.
        self._positions = static + (real.cumsum(1) - 1).clamp(min=0)
        self._nodes = self._prompts = torch.empty((len(real), 0), dtype=torch.long, device=real.device)

    def first(self, prompts: torch.Tensor, nodes: torch.Tensor) -> tuple[torch.Tensor, Mask]:
        """Positions [n, L + q] and mask of the pass over the sequences and first nodes; see `then`."""
        n, length = self._real.shape
        _, _, rows = self._placed(prompts, nodes, keep=True)
        causal = torch.ones((length, length), dtype=torch.bool, device=rows.device).tril()
        sequences = torch.ones((n, length, rows.shape[2]), dtype=torch.bool, device=rows.device)
        sequences[..., self._static : self._static + length] = causal & self._real[:, None, :]
        sequences[..., self._static + length :] = False
        return self._positions, self._by_kind(torch.cat([sequences, rows], 1), self._positions, self._positions)

    def then(self, prompts: torch.Tensor, nodes: torch.Tensor) -> tuple[torch.Tensor, Mask]:
        """Positions [n, q] and mask of a pass over further nodes.

        Args:
            prompts: [n, q] number of each node's prompt among those of its sequence.
            nodes: [n, q] indices into `trie.evaluated`; -1 for padding. A node's ancestors come before it, in this pass
                or an earlier one.
        """
        positions, keys, rows = self._placed(prompts, nodes, keep=True)
        return positions, self._by_kind(rows, positions, keys)

    def apart(self, prompts: torch.Tensor, nodes: torch.Tensor) -> tuple[torch.Tensor, Mask]:
        """As `then`, of nodes that come with all of their ancestors and that no later pass attends to."""
        positions, keys, rows = self._placed(prompts, nodes, keep=False)
        return positions, self._by_kind(rows, positions, keys)

    def select(self, rows: torch.Tensor) -> None:
        """Go on with some of the sequences."""
        self._real, self._ends, self._positions = self._real[rows], self._ends[rows], self._positions[rows]
        self._prompts, self._nodes = self._prompts[rows], self._nodes[rows]

    def _placed(
        self, prompts: torch.Tensor, nodes: torch.Tensor, keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Positions [n, q] of nodes, those of all that they may attend to [n, k], and whether they do [n, q, k].

        Args:
            keep: Whether later passes may attend to them.
        """
        n, length = self._real.shape
        q, before = nodes.shape[1], self._nodes.shape[1]
        all_nodes, all_prompts = torch.cat([self._nodes, nodes], 1), torch.cat([self._prompts, prompts], 1)
        queries, keys = nodes[:, :, None], all_nodes[:, None, :]
        reach = self._shape.reach[queries.clamp(min=0), keys.clamp(min=0)] & (queries >= 0) & (keys >= 0)
        reach &= prompts[:, :, None] == all_prompts[:, None, :]
        # Padding attends to itself: attention over nothing is not a number.
        own = torch.arange(q, device=nodes.device)
        reach[:, own, before + own] = True
        static = torch.ones((n, q, self._static), dtype=torch.bool, device=nodes.device)
        ends = self._ends.gather(1, prompts)
        so_far = torch.arange(length, device=nodes.device) <= ends[:, :, None]
        rows = torch.cat([static, so_far & self._real[:, None, :], reach], 2)
        depths = torch.where(nodes >= 0, self._shape.depths[nodes.clamp(min=0)], 0)
        positions = self._positions.gather(1, ends) + depths
        key_positions = torch.cat([self._positions, positions], 1)
        if keep:
            self._nodes, self._prompts, self._positions = all_nodes, all_prompts, key_positions
        return positions, key_positions, rows

    def _by_kind(self, mask: torch.Tensor, positions: torch.Tensor, keys: torch.Tensor) -> Mask:
        """The mask of every kind of layer, as Transformers takes it: one for all, or by kind.

        Args:
            mask: [n, q, static + k] of layers without a window.
            positions: [n, q] of the queries.
            keys: [n, k] of what follows the static part.
        """
        found = {}
        for kind, window in self._windows.items():
            found[kind] = mask[:, None]
            if window is not None:
                before = torch.arange(self._static, device=positions.device).expand(len(positions), -1)
                behind = positions[:, :, None] - torch.cat([before, keys], 1)[:, None, :]
                found[kind] = (mask & (behind < window))[:, None]
        return next(iter(found.values())) if len(found) == 1 else found


class _BatchLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values: those of the static part, which batches share, and a batch's own behind them."""

    def __init__(self, static: Any, keep: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keep, self._static = keep, (static.keys, static.values)
        self.keys, self.values, self.is_initialized = static.keys, static.values, True
        self._own: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [n, heads, all so far, width] to attend to."""
        own = key_states, value_states
        if self._own is not None:
            own = torch.cat([self._own[0], key_states], -2), torch.cat([self._own[1], value_states], -2)
        if self.keep:
            self._own = own
        n = len(key_states)
        keys, values = (part.expand(n, -1, -1, -1) for part in self._static)
        return torch.cat([keys, own[0]], -2), torch.cat([values, own[1]], -2)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Go on with some of the batch's sequences."""
        if self._own is not None:
            self._own = self._own[0][indices], self._own[1][indices]


def batch_cache(static: Any, keep: bool) -> Cache:
    """A batch's cache behind that of the static part, which it leaves as it is.

    Args:
        static: The cache of one sequence.
        keep: Whether further passes may follow. Without, a batch's keys and values live for one layer.
    """
    return Cache(layers=[_BatchLayer(layer, keep) for layer in static.layers])


@contextmanager
def keeping(cache: Any, keep: bool) -> Iterator[None]:
    """Whether a batch's cache keeps the keys and values of the passes inside."""
    before = [layer.keep for layer in cache.layers]
    for layer in cache.layers:
        layer.keep = keep
    try:
        yield
    finally:
        for layer, kept in zip(cache.layers, before, strict=True):
            layer.keep = kept


def _reach(trie: LabelTrie) -> NDArray[np.bool_]:
    """[E, E] over `trie.evaluated`: whether the column's node is the row's node or its ancestor."""
    slot = {int(node): i for i, node in enumerate(trie.evaluated)}
    reach = np.zeros((len(slot), len(slot)), dtype=np.bool_)
    for node, i in slot.items():
        parent = int(trie.parents[node])
        if parent:
            reach[i] = reach[slot[parent]]
        reach[i, i] = True
    return reach
