"""The reference backend: a Transformers model behind the same `Predictor` as llama.cpp.

Made for comparison, not for speed: it runs the weights in their own precision, on CPU or GPU. The label trie is
evaluated with tree attention: nodes attend to the prompt and to their ancestors, in sliding-window layers to those that
the window reaches. The cache holds every position for every layer, so it can be cut anywhere. Imports torch, so only
`torch_predictor` and commands import this module. Knows nothing of run folders or adapters (a PEFT model is fine).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers
from safetensors import SafetensorError
from transformers import DynamicCache

from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError
from edge_behavior.hf.tokenizers import plain_encoder
from edge_behavior.hf.tree.attention import attention_windows
from edge_behavior.runtime.backends.base import Row, reusable
from edge_behavior.runtime.backends.guarded import Guarded
from edge_behavior.runtime.lifetime import Lifetime
from edge_behavior.util.cpus import usable_threads

# Bound on the logits (nodes times vocabulary) of one forward pass.
_MAX_LOGITS = 1 << 26
# Bound on its trie nodes: the attention matrix grows with them.
_MAX_NODES = 512
_HASHED_VALUES = 1024


class TorchBackend(Guarded):
    """A causal language model in memory; see `Backend` for its methods.

    Args:
        model: A Transformers or PEFT model whose attention takes a mask (sdpa, eager). It is put into evaluation mode
            and stays on its device.
        tokenizer: Its fast tokenizer.
        capacity: Positions for the prompt and the longest label; None for what the model was built for.
    """

    def __init__(self, model: Any, tokenizer: Any, capacity: int | None = None) -> None:
        self._lifetime = Lifetime(self)
        limit_threads()
        self._model: Any = model.eval()
        self._device = next(model.parameters()).device
        self._encode = plain_encoder(tokenizer)
        self._capacity = capacity or int(model.config.max_position_embeddings)
        self._n_vocab = int(model.config.vocab_size)
        self._windows = attention_windows(model.config)
        self._cache: Any = DynamicCache()
        self._held: list[int] = []
        # Trie nodes in the cache after the prompt, in order, and the logits after each.
        self._trie: LabelTrie | None = None
        self._slots: dict[int, int] = {}
        self._rows: dict[int, Row] = {}
        self._seconds = 0.0

    @property
    def n_vocab(self) -> int:
        """Size of the vocabulary."""
        self._lifetime.check()
        return self._n_vocab

    @property
    def capacity(self) -> int:
        """Positions for the prompt and the longest label."""
        self._lifetime.check()
        return self._capacity

    @property
    def held(self) -> list[int]:
        """Ids of the prompt in the cache."""
        self._lifetime.check()
        return self._held if self._known else []

    @property
    def fingerprint(self) -> str:
        """Versions, precision and device."""
        self._lifetime.check()
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        return f"{versions}, {self._model.dtype} on {self._device.type}"

    @property
    def decode_seconds(self) -> float:
        """Wall time inside the model."""
        self._lifetime.check()
        return self._seconds

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text; see `Backend`."""
        self._lifetime.check()
        return self._encode(text)

    def prefill(
        self, ids: Sequence[int], trie: LabelTrie | None = None, nodes: Sequence[int] = (), spare: Sequence[int] = ()
    ) -> tuple[Row, int]:
        """Hold `ids`; see `Backend`. Hints are ignored: `branch` evaluates the nodes."""
        common = reusable(self.held, ids, self._capacity)
        new = list(ids[common:])
        with self._changing():
            self._slots, self._rows = {}, {}
            self._keep(common)
            rows = self._forward(new, list(range(common, len(ids))), None, 1)
            self._held = list(ids)
        return rows[0], len(new)

    def branch(self, trie: LabelTrie, nodes: Sequence[int]) -> tuple[Sequence[Row], int]:
        """Evaluate trie nodes; see `Backend`."""
        self._lifetime.check()
        self._restore_order()
        if trie is not self._trie:
            self._release()
            self._trie = trie
        # Nodes are numbered breadth-first: a parent comes before its children.
        new = sorted({step for node in nodes for step in trie.ancestors(node)} - self._slots.keys())
        end, deepest = len(self._held), max((int(trie.depths[node]) for node in new), default=0)
        # Positions are what is limited: the cache itself grows.
        if end + deepest > self._capacity:
            raise EdgebError(
                f"the prompt has {end} tokens and a label {deepest}, the context holds {self._capacity}",
                "shorten the place names or the history",
            )
        step = min(_MAX_NODES, max(1, _MAX_LOGITS // self._n_vocab))
        for start in range(0, len(new), step):
            with self._changing():
                self._evaluate(trie, new[start : start + step])
        return [self._rows[node] for node in nodes], len(new)

    def at_hand(self, trie: LabelTrie) -> Collection[int]:
        """Nodes evaluated since the prompt changed; see `Backend`."""
        self._lifetime.check()
        return self._rows.keys() if trie is self._trie and self._known else ()

    def save_state(self) -> bytes:
        """The prompt's cache in the safetensors format; see `Backend`."""
        self._lifetime.check()
        self._release()
        tensors = {}
        for i, layer in enumerate(self._cache.layers):
            tensors[f"{i}.keys"] = layer.keys.cpu().contiguous()
            tensors[f"{i}.values"] = layer.values.cpu().contiguous()
        return safetensors.torch.save(tensors)

    def load_state(self, ids: Sequence[int], state: bytes) -> bool:
        """Hold `ids` from saved bytes; see `Backend`."""
        self._lifetime.check()
        self._empty()
        try:
            tensors = safetensors.torch.load(state)
        except SafetensorError:
            return False
        config = self._model.config
        heads = int(config.num_key_value_heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        names = [f"{i}.{part}" for i in range(int(config.num_hidden_layers)) for part in ("keys", "values")]
        shape, dtype = (1, heads, len(ids), width), self._model.dtype
        if set(tensors) != set(names) or any(t.shape != shape or t.dtype != dtype for t in tensors.values()):
            return False
        with self._changing():
            for i in range(int(config.num_hidden_layers)):
                self._cache.update(tensors[f"{i}.keys"].to(self._device), tensors[f"{i}.values"].to(self._device), i)
            self._held = list(ids)
        return True

    def close(self) -> None:
        """Release model and cache."""
        self._lifetime.close()
        self._clear()
        self._model = None

    def _clear(self) -> None:
        self._cache, self._held, self._slots, self._rows = DynamicCache(), [], {}, {}

    def _evaluate(self, trie: LabelTrie, nodes: list[int]) -> None:
        """Append nodes to the cache; parents come first."""
        end, known = len(self._held), len(self._slots)
        positions = [end + int(trie.depths[node]) - 1 for node in nodes]
        reach = torch.zeros((1, 1, len(nodes), end + known + len(nodes)), dtype=torch.bool)
        reach[..., :end] = True
        for row, node in enumerate(nodes):
            self._slots[node] = known + row
            for step in trie.ancestors(node):
                reach[0, 0, row, end + self._slots[step]] = True
        tokens = [int(trie.tokens[node]) for node in nodes]
        before = [*range(end), *(end + int(trie.depths[node]) - 1 for node in self._slots)]
        rows = self._forward(tokens, positions, self._masks(reach, positions, before), len(nodes))
        self._rows.update(zip(nodes, rows, strict=True))

    def _masks(
        self, reach: torch.Tensor, queries: list[int], keys: list[int]
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """The mask of every kind of layer, as Transformers takes it: one for all, or by kind.

        Args:
            reach: [1, 1, queries, keys] whether a query attends to a key where no window ends.
            queries: Their positions.
            keys: Theirs.
        """
        distances = torch.tensor(queries)[:, None] - torch.tensor(keys)
        found = {
            kind: (reach if window is None else reach & (distances < window)).to(self._device)
            for kind, window in self._windows.items()
        }
        return next(iter(found.values())) if len(found) == 1 else found

    def _forward(
        self, ids: list[int], positions: list[int], mask: torch.Tensor | dict[str, torch.Tensor] | None, rows: int
    ) -> Row:
        """Append tokens to the cache; logits [rows, V] after the last of them."""
        started = perf_counter()
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=torch.tensor([positions], device=self._device),
                attention_mask=mask,
                cache=self._cache,
                use_cache=True,
                logits_to_keep=rows,
            )
            found: Row = output.logits[0].float().cpu().numpy()
        self._seconds += perf_counter() - started
        return found

    def _release(self) -> None:
        """Forget every evaluated trie node."""
        with self._changing():
            self._slots, self._rows = {}, {}
            self._keep(len(self._held))

    def _keep(self, count: int) -> None:
        """Cut the cache down to its first `count` tokens."""
        self._held = self._held[:count]
        if count == 0:
            self._cache = DynamicCache()
            return
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[..., :count, :], layer.values[..., :count, :]


def limit_threads(asked: int | None = None) -> None:
    """Limit torch's threads to those requested, or else to what this process may use.

    Raises:
        EdgebError: see `usable_threads`.
    """
    own = torch.get_num_threads()
    usable = usable_threads(asked, own)
    if asked is not None or usable < own:
        torch.set_num_threads(usable)


def weights_hash(model: Any) -> str:
    """Hash that tells models apart, for sessions and snapshots; of large tensors it covers a sample."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // _HASHED_VALUES)].float().cpu().numpy()
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(np.ascontiguousarray(sample, dtype="<f4").tobytes())
    return digest.hexdigest()
