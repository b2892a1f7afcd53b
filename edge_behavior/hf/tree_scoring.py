"""Batched exact scoring of all labels with a Transformers model: for the pool, evaluation and parity checks.

One forward pass per batch evaluates every prompt together with its label trie, under a tree mask: trie nodes attend to
the prompt and to their own ancestors. The static part of the prompt is evaluated once, and its keys and values are
shared. The output layer runs on a few rows at a time, so memory does not grow with vocabulary times positions; a
batch's keys and values live for one layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, DynamicCache, DynamicLayer

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.scoring import TOKENS_PER_PASS, exact_log_probs
from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError
from edge_behavior.hf.internals import attention_of

# Flash kernels do not take a custom mask.
_TAKE_TREE_MASKS = ("sdpa", "eager")
# Rows of logits, each as wide as the vocabulary, in memory at once.
TILE_ROWS = 256


@dataclass(frozen=True)
class PromptScores:
    """Scores of n prompts over B candidates.

    Attributes:
        log_probs: [n, B] exact log-probability of each candidate (full vocabulary, not renormalized).
        embeddings: [n, H] last hidden state at the end of each prompt, the E(x) of Algorithm 1.
    """

    log_probs: NDArray[np.float64]
    embeddings: NDArray[np.float32]


class TorchScorer:
    """Scores prompts that share an encoder's static part and label trie.

    Args:
        model: A causal LM, with or without PEFT. While scoring, its attention is switched to one that takes a 4D mask.
        encoder: Supplies the static ids and the trie.
        max_tokens: Most prompt and trie tokens per forward pass; a pass has at least one prompt.
    """

    def __init__(self, model: Any, encoder: PromptEncoder, max_tokens: int = TOKENS_PER_PASS) -> None:
        self._model, self._encoder, self._max_tokens = model, encoder, max_tokens
        self._device = next(model.parameters()).device
        self._head = TiledHead(model.get_output_embeddings(), encoder.trie, self._device)
        self._nodes = encoder.trie.evaluated
        self._reach = torch.from_numpy(_reach(encoder.trie)).to(self._device)
        self._windows = attention_windows(model.config)

    def score(self, prompts: Sequence[Sequence[int]]) -> PromptScores:
        """Score prompts given as full token ids (`PromptEncoder.prompt_ids`), in any order and of any lengths.

        Raises:
            EdgebError: the model scales or caps its logits after the output layer, or has layers that attend neither to
                the whole context nor to a sliding window.
        """
        static = len(self._encoder.static_ids)
        bodies = [list(p[static:]) for p in prompts]
        order = sorted(range(len(bodies)), key=lambda i: len(bodies[i]))
        log_probs = np.empty((len(bodies), self._encoder.trie.n_candidates))
        embeddings: dict[int, NDArray[np.float32]] = {}
        was_training, attention = self._model.training, attention_of(self._model)
        self._model.eval()
        if attention not in _TAKE_TREE_MASKS:
            self._model.set_attn_implementation("sdpa")
        try:
            with torch.no_grad():
                prefix = self._prefix()
                for batch in self._batches(order, bodies):
                    scores, hidden = self._forward([bodies[i] for i in batch], prefix)
                    log_probs[batch] = scores
                    embeddings.update(zip(batch, hidden, strict=True))
        finally:
            self._model.train(was_training)
            if attention not in _TAKE_TREE_MASKS:
                self._model.set_attn_implementation(attention)
        width = next(iter(embeddings.values())).shape[0] if embeddings else 0
        stacked = np.stack([embeddings[i] for i in range(len(bodies))]) if bodies else np.empty((0, width), np.float32)
        return PromptScores(log_probs, stacked)

    def _batches(self, order: list[int], bodies: list[list[int]]) -> list[list[int]]:
        batches: list[list[int]] = []
        for i in order:
            cost = len(bodies[i]) + len(self._nodes)
            if batches and (len(batches[-1]) + 1) * cost <= self._max_tokens:
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches

    def _prefix(self) -> Cache:
        ids = torch.tensor([self._encoder.static_ids], device=self._device)
        made: list[torch.Tensor] = []
        watch = self._model.get_output_embeddings().register_forward_hook(lambda *call: made.append(call[-1]))
        try:
            # A cache that knows the model's windows would drop what the batches' masks speak of.
            output = self._model(input_ids=ids, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1)
        finally:
            watch.remove()
        if not made or not torch.allclose(made[-1].float(), output.logits.float(), equal_nan=True):
            raise EdgebError(
                f"a backbone of type {self._model.config.model_type} changes its logits after the output layer",
                "use one that does not scale or cap them, such as Qwen2 or Llama",
            )
        return shared_cache(output.past_key_values)

    def _forward(self, bodies: list[list[int]], prefix: Cache) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        trie, device = self._encoder.trie, self._device
        n, length, nodes = len(bodies), max(len(b) for b in bodies), len(self._nodes)
        static = len(self._encoder.static_ids)
        ids = torch.zeros((n, length + nodes), dtype=torch.long)
        real = torch.zeros((n, length), dtype=torch.bool)
        for row, body in enumerate(bodies):
            ids[row, length - len(body) : length] = torch.tensor(body)
            real[row, length - len(body) :] = True
        ids[:, length:] = torch.from_numpy(trie.tokens[self._nodes].astype(np.int64))
        ids, real = ids.to(device), real.to(device)
        # Positions count from each prompt's first real token; padding sits at the first position.
        in_body = (real.cumsum(1) - 1).clamp(min=0)
        depths = torch.from_numpy(trie.depths[self._nodes].astype(np.int64)).to(device)
        positions = static + torch.cat([in_body, in_body[:, -1:] + depths], 1)
        mask = self._mask(real, static, nodes)
        keep = torch.arange(length - 1, length + nodes, device=device)
        with self._head:
            self._model(
                input_ids=ids,
                attention_mask=self._masks(mask, positions, static),
                position_ids=positions,
                past_key_values=prefix,
                use_cache=True,
                logits_to_keep=keep,
            )
        found = self._head.found()
        token_logits = np.zeros((n, len(trie)))
        token_logits[:, self._head.nodes] = found.token_logits.double().cpu().numpy()
        logsumexp = found.logsumexp.double().cpu().numpy()
        return exact_log_probs(trie, token_logits, logsumexp), found.first_states.float().cpu().numpy()

    def _mask(self, real: torch.Tensor, static: int, nodes: int) -> torch.Tensor:
        """[n, 1, body + nodes, static + body + nodes], true where a query may attend."""
        n, length = real.shape
        size = length + nodes
        mask = torch.zeros((n, 1, size, static + size), dtype=torch.bool, device=real.device)
        mask[..., :static] = True
        causal = torch.ones((length, length), dtype=torch.bool, device=real.device).tril()
        mask[:, 0, :length, static : static + length] = causal & real[:, None, :]
        mask[:, 0, length:, static : static + length] = real[:, None, :]
        mask[:, 0, length:, static + length :] = self._reach
        return mask

    def _masks(
        self, mask: torch.Tensor, positions: torch.Tensor, static: int
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """The mask of every kind of layer, as Transformers takes it: one for all, or by kind."""
        found = {}
        for kind, window in self._windows.items():
            found[kind] = mask
            if window is not None:
                before = torch.arange(static, device=positions.device).expand(len(positions), -1)
                keys = torch.cat([before, positions], 1)
                found[kind] = mask & (positions[:, None, :, None] - keys[:, None, None, :] < window)
        return next(iter(found.values())) if len(found) == 1 else found


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


@dataclass(frozen=True)
class HeadScores:
    """What scoring keeps of the logits of n prompts at E positions each.

    Attributes:
        token_logits: [n, nodes - 1] logit of every trie node but the root after its parent, in the order of
            `TiledHead.nodes`.
        logsumexp: [n, E] over the vocabulary, at every inner node.
        first_states: [n, H] input of the output layer at the first position, the end of the prompt.
    """

    token_logits: torch.Tensor
    logsumexp: torch.Tensor
    first_states: torch.Tensor


class TiledHead:
    """Replaces a model's output layer: computes logits a tile of rows at a time and keeps only what scoring needs.

    A context manager: inside it, the layer's `forward` is this object's. The model still calls the layer itself, so
    hooks that move, gather or cast weights (PEFT, accelerate, FSDP) keep working.

    Args:
        head: The output layer, `model.get_output_embeddings()`.
        trie: Determines which tokens are needed at which row.
        device: The layer's.

    Attributes:
        nodes: [nodes - 1] trie node of each of `HeadScores.token_logits`.
    """

    def __init__(self, head: Any, trie: LabelTrie, device: torch.device) -> None:
        row_of_node = np.searchsorted(trie.inner, trie.parents[1:])
        order = np.argsort(row_of_node, kind="stable")
        self.nodes = 1 + order
        self._head, self._own = head, None
        self._found: HeadScores | None = None
        self._rows = torch.from_numpy(row_of_node[order].astype(np.int64)).to(device)
        self._tokens = torch.from_numpy(trie.tokens[self.nodes].astype(np.int64)).to(device)
        # Tokens needed at all rows before each row, and in total.
        self._before = np.searchsorted(row_of_node[order], np.arange(len(trie.inner) + 1)).tolist()

    def __enter__(self) -> TiledHead:
        self._own = self._head.__dict__.get("forward")
        self._forward = self._head.forward
        self._head.forward = self._score
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is None:
            del self._head.forward
        else:
            self._head.forward = self._own

    def found(self) -> HeadScores:
        """The scores of the last forward pass, which are released."""
        found, self._found = self._found, None
        assert found is not None, "no forward pass"
        return found

    def _score(self, states: torch.Tensor) -> torch.Tensor:
        """Score hidden states [n, E, H]; the returned logits are empty."""
        n, kept = states.shape[:2]
        flat = states.reshape(n * kept, -1)
        rows = (torch.arange(n, device=self._rows.device)[:, None] * kept + self._rows).reshape(-1)
        tokens = self._tokens.repeat(n)
        logsumexp = torch.empty(n * kept, device=states.device)
        token_logits = torch.empty(len(tokens), device=states.device)
        for start in range(0, len(flat), TILE_ROWS):
            stop = min(start + TILE_ROWS, len(flat))
            logits = self._forward(flat[start:stop]).float()
            needed = slice(self._needed_before(start), self._needed_before(stop))
            token_logits[needed] = logits[rows[needed] - start, tokens[needed]]
            logsumexp[start:stop] = torch.logsumexp(logits, -1)
        self._found = HeadScores(token_logits.view(n, -1), logsumexp.view(n, kept), states[:, 0])
        return states[..., :0]

    def _needed_before(self, row: int) -> int:
        """Tokens needed at all rows of all prompts before `row`."""
        prompt, at = divmod(row, len(self._before) - 1)
        return int(prompt * len(self._tokens) + self._before[at])


class _SharedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values of a prefix. A batch's are appended for one pass and not kept."""

    def __init__(self, layer: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._prefix = (layer.keys, layer.values)
        self.keys, self.values, self.is_initialized = layer.keys, layer.values, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [n, heads, prefix + own, width] to attend to."""
        n = len(key_states)
        keys, values = (t.expand(n, -1, -1, -1) for t in self._prefix)
        return torch.cat([keys, key_states], -2), torch.cat([values, value_states], -2)


def shared_cache(prefix: Any) -> Cache:
    """A cache of one sequence that any number of batches of any size can share; none changes it."""
    return Cache(layers=[_SharedLayer(layer) for layer in prefix.layers])


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
