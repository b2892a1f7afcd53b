"""Batched exact scoring with a Transformers model: pool scores, evaluation and the parity oracle.

One forward pass per batch evaluates every prompt and its whole label trie. The static part of the prompt is
evaluated once and its keys and values are shared; trie nodes attend to the prompt and to their own ancestors only.
Imports torch, so nothing else in the runtime imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_behavior.encoding import PromptEncoder
from edge_behavior.scoring import exact_log_probs
from edge_behavior.trie import LabelTrie

# Flash kernels take no mask of their own.
_TAKE_TREE_MASKS = ("sdpa", "eager")
# Bounds of one forward pass: prompt plus trie tokens, and logits (rows times vocabulary).
MAX_TOKENS, MAX_LOGITS = 16_384, 1 << 26


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
    """Scores prompts that share one encoder's static part and label trie.

    Args:
        model: A causal LM (a PEFT model is fine). While it scores, its attention is one that takes a 4D mask.
        encoder: Supplies the static ids and the trie.
        max_tokens: Bound on prompt plus trie tokens per forward pass; batches are cut to fit.
        max_logits: Bound on logits (rows times vocabulary) per forward pass.
    """

    def __init__(
        self, model: Any, encoder: PromptEncoder, max_tokens: int = MAX_TOKENS, max_logits: int = MAX_LOGITS
    ) -> None:
        self._model, self._encoder, self._max_tokens = model, encoder, max_tokens
        self._max_batch = max(1, max_logits // (len(encoder.trie.inner) * int(model.config.vocab_size)))
        self._device = next(model.parameters()).device
        self._nodes = encoder.trie.evaluated
        self._reach = torch.from_numpy(_reach(encoder.trie)).to(self._device)

    def score(self, prompts: Sequence[Sequence[int]]) -> PromptScores:
        """Score prompts given as full token ids (`PromptEncoder.prompt_ids`), in any order and of any lengths."""
        static = len(self._encoder.static_ids)
        bodies = [list(p[static:]) for p in prompts]
        order = sorted(range(len(bodies)), key=lambda i: len(bodies[i]))
        log_probs = np.empty((len(bodies), self._encoder.trie.n_candidates))
        embeddings: dict[int, NDArray[np.float32]] = {}
        was_training, attention = self._model.training, self._model.config._attn_implementation
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
            fits = batches and (len(batches[-1]) + 1) * cost <= self._max_tokens
            if fits and len(batches[-1]) < self._max_batch:
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches

    def _prefix(self) -> Any:
        ids = torch.tensor([self._encoder.static_ids], device=self._device)
        return self._model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def _forward(self, bodies: list[list[int]], prefix: Any) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
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
        # Position of each body token counts from its prompt's first real one; padding sits at the first position.
        in_body = (real.cumsum(1) - 1).clamp(min=0)
        depths = torch.from_numpy(trie.depths[self._nodes].astype(np.int64)).to(device)
        positions = static + torch.cat([in_body, in_body[:, -1:] + depths], 1)
        mask = self._mask(real, static, nodes)
        keep = torch.arange(length - 1, length + nodes, device=device)
        cache = deepcopy(prefix)
        cache.batch_repeat_interleave(n)
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
            output_hidden_states=True,
        )
        logits = output.logits.float()
        row_of_node = torch.from_numpy(np.searchsorted(trie.inner, trie.parents[1:])).to(device)
        tokens = torch.from_numpy(trie.tokens[1:].astype(np.int64)).to(device)
        token_logits = np.zeros((n, len(trie)))
        token_logits[:, 1:] = logits[:, row_of_node, tokens].double().cpu().numpy()
        logsumexp = torch.logsumexp(logits, -1).double().cpu().numpy()
        hidden = output.hidden_states[-1][:, length - 1].float().cpu().numpy()
        return exact_log_probs(trie, token_logits, logsumexp), hidden

    def _mask(self, real: torch.Tensor, static: int, nodes: int) -> torch.Tensor:
        """[n, 1, body + nodes, static + body + nodes], true where a query may look."""
        n, length = real.shape
        size = length + nodes
        mask = torch.zeros((n, 1, size, static + size), dtype=torch.bool, device=real.device)
        mask[..., :static] = True
        causal = torch.ones((length, length), dtype=torch.bool, device=real.device).tril()
        mask[:, 0, :length, static : static + length] = causal & real[:, None, :]
        mask[:, 0, length:, static : static + length] = real[:, None, :]
        mask[:, 0, length:, static + length :] = self._reach
        return mask


def _reach(trie: LabelTrie) -> NDArray[np.bool_]:
    """[E, E] over `trie.evaluated`: which evaluated nodes are a node's ancestors or itself."""
    slot = {int(node): i for i, node in enumerate(trie.evaluated)}
    reach = np.zeros((len(slot), len(slot)), dtype=np.bool_)
    for node, i in slot.items():
        parent = int(trie.parents[node])
        if parent:
            reach[i] = reach[slot[parent]]
        reach[i, i] = True
    return reach
