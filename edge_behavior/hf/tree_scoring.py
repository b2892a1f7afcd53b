"""Batched scoring of labels with a Transformers model: for the pool, evaluation and parity checks.

A forward pass evaluates a batch of prompts, some of which may be beginnings of others, together with nodes of the label
trie, under a tree mask. Where the score of every label is wanted, that is the whole trie in one pass, or part by part
in further ones if it is large. Where less suffices, the first pass takes the path of the label that has to be known;
further passes, on the keys and values of the first, take what the search after each prompt (core.search) still asks
for. The static part and the prompts are evaluated once. The output layer runs on a few rows at a time, so memory does
not grow with vocabulary times positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, DynamicCache

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.scoring import TOKENS_PER_PASS, Floats
from edge_behavior.core.search import Goal, OpenSearch, TrieSearch
from edge_behavior.errors import EdgebError
from edge_behavior.hf.internals import attention_of
from edge_behavior.hf.tree.attention import TreeBatch, TreeShape, attention_windows, batch_cache, keeping
from edge_behavior.hf.tree.head import Ints, Steps, TiledHead
from edge_behavior.hf.tree.inputs import Embed

# Nodes of a larger trie are evaluated in parts of about so many: attention is computed between all of a pass.
PART_NODES = 256
# Flash kernels do not take a custom mask.
_TAKE_TREE_MASKS = ("sdpa", "eager")


@dataclass(frozen=True)
class Prompts:
    """Prompts that are beginnings of one sequence, and what to establish after each.

    Attributes:
        ids: Token ids of the sequence, static part included.
        ends: Length of each prompt, one longer than the other; the last one is all of `ids`.
        goals: Of each prompt.
    """

    ids: Sequence[int]
    ends: Sequence[int]
    goals: Sequence[Goal]


@dataclass(frozen=True)
class PromptScores:
    """Scores of n prompts over B candidates.

    Attributes:
        log_probs: [n, B] exact log-probability of each candidate that is `known` (full vocabulary, not renormalized).
            The others have equal shares of the probability of the path that they have in common, as far as it was
            evaluated: an upper bound for all of them together.
        known: [n, B] whether the candidate's whole path was evaluated.
        embeddings: [n, H] last hidden state at the end of each prompt, the E(x) of Algorithm 1.
        trie_tokens: [n] trie nodes that were evaluated after each prompt.
    """

    log_probs: Floats
    known: NDArray[np.bool_]
    embeddings: NDArray[np.float32]
    trie_tokens: NDArray[np.int64]


class TorchScorer:
    """Scores prompts that share an encoder's static part and label trie.

    Args:
        model: A causal LM, with or without PEFT. While scoring, its attention is switched to one that takes a 4D mask.
        encoder: Supplies the static ids and the trie.
        max_tokens: Most prompt and trie tokens per forward pass; a pass has at least one sequence.
        embed: Makes the model's input of ids where some of them stand for vectors (`tree.inputs`); None where all are
            tokens.
    """

    def __init__(
        self, model: Any, encoder: PromptEncoder, max_tokens: int = TOKENS_PER_PASS, embed: Embed | None = None
    ) -> None:
        self._model, self._encoder, self._max_tokens, self._embed = model, encoder, max_tokens, embed
        self._device = next(model.parameters()).device
        trie = encoder.trie
        self._head = TiledHead(model.get_output_embeddings(), trie)
        self._shape, self._windows = TreeShape(trie, self._device), attention_windows(model.config)
        self._search, self._parts = TrieSearch(trie, "exact"), trie.parts(PART_NODES)
        # By node, its index in `evaluated`; -1 for others and for padding.
        self._slot = np.full(len(trie) + 1, -1, dtype=np.int64)
        self._slot[trie.evaluated] = np.arange(len(trie.evaluated))

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        goals: Sequence[Goal] | None = None,
        advance: Callable[[int], object] | None = None,
    ) -> PromptScores:
        """Score prompts given as full token ids (`PromptEncoder.prompt_ids`), in any order and of any lengths.

        Args:
            goals: What to establish after each prompt; None for the scores of all candidates.
            advance: See `score_shared`.

        Raises:
            EdgebError: see `score_shared`.
        """
        wanted = zip(prompts, goals or [Goal()] * len(prompts), strict=True)
        return self.score_shared([Prompts(ids, [len(ids)], [goal]) for ids, goal in wanted], advance)

    def score_shared(
        self, sequences: Sequence[Prompts], advance: Callable[[int], object] | None = None
    ) -> PromptScores:
        """Score prompts several of which may share a sequence, in the order given.

        Args:
            advance: Called with the number of prompts that have just been scored.

        Raises:
            EdgebError: the model scales or caps its logits after the output layer, or has layers that attend neither to
                the whole context nor to a sliding window.
        """
        static, trie, size = len(self._encoder.static_ids), self._encoder.trie, self._encoder.trie.n_candidates
        asked, n = list[_Sequence](), 0
        for held in sequences:
            body, ends = list(held.ids[static:]), [end - static - 1 for end in held.ends]
            apart = [i for i, goal in enumerate(held.goals) if goal.everything and len(self._parts) > 1]
            first = [
                (i, node) for i, goal in enumerate(held.goals) if i not in apart for node in self._first_nodes(goal)
            ]
            room = max(self._max_tokens - len(body), len(trie.evaluated))
            goes_on = len(first) > room or bool(apart) or not all(goal.everything for goal in held.goals)
            asked.append(_Sequence(body, ends, held.goals, first[:room], apart, n, goes_on))
            n += len(ends)
        hidden = int(self._model.config.get_text_config().hidden_size)
        scores = PromptScores(
            np.empty((n, size)),
            np.empty((n, size), dtype=np.bool_),
            np.empty((n, hidden), dtype=np.float32),
            np.zeros(n, dtype=np.int64),
        )
        was_training, attention = self._model.training, attention_of(self._model)
        self._model.eval()
        if attention not in _TAKE_TREE_MASKS:
            self._model.set_attn_implementation("sdpa")
        try:
            with torch.no_grad():
                prefix = self._prefix()
                for batch in self._batches(asked):
                    self._score_batch(batch, prefix, scores)
                    if advance is not None:
                        advance(sum(len(one.ends) for one in batch))
        finally:
            self._model.train(was_training)
            if attention not in _TAKE_TREE_MASKS:
                self._model.set_attn_implementation(attention)
        return scores

    def _first_nodes(self, goal: Goal) -> list[int]:
        """Nodes of the first pass: all of them, or those that are certain to be needed."""
        trie = self._encoder.trie
        if goal.everything:
            return [int(node) for node in trie.evaluated]
        return [] if goal.target is None else trie.ancestors(int(trie.leaves[goal.target]))[:-1]

    def _batches(self, asked: list[_Sequence]) -> list[list[_Sequence]]:
        batches: list[list[_Sequence]] = []
        most = max(map(len, self._parts), default=0)
        for one in sorted(asked, key=lambda one: one.tokens):
            tokens = max(one.tokens, most) if one.apart else one.tokens
            if batches and (len(batches[-1]) + 1) * tokens <= self._max_tokens:
                batches[-1].append(one)
            else:
                batches.append([one])
        return batches

    def _prefix(self) -> Any:
        """The static part's cache."""
        ids = torch.tensor([self._encoder.static_ids], device=self._device)
        made: list[torch.Tensor] = []
        watch = self._model.get_output_embeddings().register_forward_hook(lambda *call: made.append(call[-1]))
        try:
            # A cache that knows the model's windows would drop what the batches' masks speak of.
            output = self._model(**self._input(ids), cache=DynamicCache(), use_cache=True, logits_to_keep=1)
        finally:
            watch.remove()
        if not made or not torch.allclose(made[-1].float(), output.logits.float(), equal_nan=True):
            raise EdgebError(
                f"a backbone of type {self._model.config.model_type} changes its logits after the output layer",
                "use one that does not scale or cap them, such as Qwen2 or Llama",
            )
        return output.cache

    def _score_batch(self, asked: list[_Sequence], prefix: Any, scores: PromptScores) -> None:
        """Score the prompts of some sequences together, into their rows of `scores`."""
        ids, ends = _aligned(asked)
        batch = TreeBatch(
            self._shape, self._windows, len(self._encoder.static_ids), self._tensor(ids >= 0), self._tensor(ends)
        )
        cache = batch_cache(prefix, keep=any(one.goes_on for one in asked))
        searches = {one.row + i: self._search.begin(goal) for one in asked for i, goal in enumerate(one.goals)}
        found = self._forward(batch, cache, asked, [one.first for one in asked], (ids, ends))
        scores.embeddings[found.prompts[found.nodes == 0]] = found.states
        for nodes in self._apart(asked):
            _read(found, searches, scores)
            with keeping(cache, False):
                found = self._forward(batch, cache, asked, nodes, apart=True)
        while True:
            _read(found, searches, scores)
            wanted = {row: search.wanted() for row, search in searches.items()}
            for row in [row for row, nodes in wanted.items() if not nodes]:
                scores.log_probs[row], scores.known[row] = searches[row].shares(), searches[row].known
                del searches[row]
            if not searches:
                break
            nodes = [
                [(i, node) for i in range(len(one.goals)) for node in wanted.get(one.row + i, ())] for one in asked
            ]
            kept = [at for at, own in enumerate(nodes) if own]
            if len(kept) < len(nodes):
                selected = self._tensor(np.array(kept))
                batch.select(selected)
                cache.batch_select_indices(selected)
                asked, nodes = [asked[at] for at in kept], [nodes[at] for at in kept]
            # Ancestors come first: what is cut off is asked for again.
            most = max(1, self._max_tokens // len(nodes))
            found = self._forward(batch, cache, asked, [own[:most] for own in nodes])

    def _apart(self, asked: list[_Sequence]) -> Iterator[list[list[tuple[int, int]]]]:
        """The passes over parts of the trie: one prompt of each sequence, that is scored so, and one part at a time."""
        for turn in range(max(len(one.apart) for one in asked)):
            for part in self._parts:
                yield [[(i, node) for i in one.apart[turn : turn + 1] for node in part] for one in asked]

    def _forward(
        self,
        batch: TreeBatch,
        cache: Cache,
        asked: list[_Sequence],
        nodes: list[list[tuple[int, int]]],
        opening: tuple[Ints, Ints] | None = None,
        apart: bool = False,
    ) -> Steps:
        """Evaluate nodes after prompts of the sequences, in the first pass of a batch behind the sequences themselves.

        Args:
            nodes: Of each sequence: number of the prompt among its prompts, and trie node.
            opening: Token ids and ends of the sequences, as `_aligned` gives them.
            apart: See `TreeBatch.apart`.
        """
        width = max(map(len, nodes))
        prompts = np.zeros((len(nodes), width), dtype=np.int64)
        padded = np.full((len(nodes), width), -1, dtype=np.int64)
        for row, own in enumerate(nodes):
            if own:
                prompts[row, : len(own)], padded[row, : len(own)] = zip(*own, strict=True)
        tokens = self._encoder.trie.tokens[padded.clip(min=0)].astype(np.int64).clip(min=0)
        place = batch.apart if apart else batch.then if opening is None else batch.first
        positions, mask = place(self._tensor(prompts), self._tensor(self._slot[padded]))
        rows = np.array([[one.row] for one in asked])
        prompts = rows + prompts
        if opening is not None:
            ids, ends = opening
            roots, owners = np.full(ids.shape, -1, dtype=np.int64), np.zeros(ids.shape, dtype=np.int64)
            for row, one in enumerate(asked):
                at = ends[row, : len(one.goals)]
                roots[row, at], owners[row, at] = 0, one.row + np.arange(len(at))
            tokens = np.concatenate([ids.clip(min=0), tokens], 1)
            padded, prompts = np.concatenate([roots, padded], 1), np.concatenate([owners, prompts], 1)
        self._head.expect(prompts, padded)
        with self._head:
            self._model(
                **self._input(self._tensor(tokens)),
                attention_mask=mask,
                position_ids=positions,
                cache=cache,
                use_cache=True,
            )
        return self._head.found()

    def _input(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"input_ids": ids} if self._embed is None else {"inputs_embeds": self._embed(ids)}

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)


@dataclass(frozen=True)
class _Sequence:
    """One sequence of prompts.

    Attributes:
        body: Its tokens behind the static part.
        ends: [P] where in the body the last token of each prompt is.
        goals: Of each prompt.
        first: What its first pass evaluates: number of the prompt, and trie node.
        apart: Numbers of the prompts after which the whole trie is evaluated in parts, after the first pass.
        row: Of its first prompt in the scores.
        goes_on: Whether passes may follow the first.
    """

    body: list[int]
    ends: list[int]
    goals: Sequence[Goal]
    first: list[tuple[int, int]]
    apart: list[int]
    row: int
    goes_on: bool

    @property
    def tokens(self) -> int:
        """Of the first pass."""
        return len(self.body) + len(self.first)


def _read(found: Steps, searches: Mapping[int, OpenSearch], scores: PromptScores) -> None:
    for row, search in searches.items():
        search.read(*found.of(row))
    rows, counts = np.unique(found.prompts[found.nodes > 0], return_counts=True)
    scores.trie_tokens[rows] += counts


def _aligned(asked: list[_Sequence]) -> tuple[Ints, Ints]:
    """Right-aligned tokens [n, L] with -1 for padding, and where in them each prompt ends [n, P]."""
    length, most = max(len(one.body) for one in asked), max(len(one.ends) for one in asked)
    ids, ends = np.full((len(asked), length), -1, dtype=np.int64), np.zeros((len(asked), most), dtype=np.int64)
    for row, one in enumerate(asked):
        ids[row, length - len(one.body) :] = one.body
        ends[row, : len(one.ends)] = length - len(one.body) + np.array(one.ends)
    return ids, ends
