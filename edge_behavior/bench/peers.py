"""Peers: the other ways to get a prediction from the same file, grammar completion and scoring label by label.

Peers get the very token ids that edgeb evaluates, and every option that helps them: a grammar of the bare labels, a
stop at the end of the label, as many threads, flash attention where it is faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_behavior.bench.native import stock_llama, watched_decodes
from edge_behavior.bench.options import CYCLE
from edge_behavior.bench.scenarios import Turns
from edge_behavior.bench.timing import Sample
from edge_behavior.bundle.grammar import character_grammar
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.llama.context import ContextOptions, LlamaContext
from edge_behavior.runtime.llama.model import LlamaModel

PEERS = ("completion", "completion_cached", "completion_appended", "labels", "labels_cached")


@dataclass(frozen=True)
class PeerOptions:
    """How a peer is run.

    Attributes:
        threads: CPU threads.
        turns: When it is timed.
        cached: What a prompt shares with the one before is kept in the cache; else each starts from an empty one.
        follow: Evaluate the prompts of all other rounds untimed, so that the cache always holds the round before.
    """

    threads: int
    turns: Turns
    cached: bool = False
    follow: bool = False


class CompletionPeer:
    """`Llama.create_completion` with a GBNF grammar of the labels, greedy.

    Its cache is llama-cpp-python's own, which reuses the longest common beginning by itself.

    Args:
        name: Scenario name.
        prompts: Token ids per round.
        encoder: Labels and how they end.

    Attributes:
        name: See `name`.
        seconds: What its first prediction took.
    """

    def __init__(
        self, bundle: Path, name: str, prompts: Sequence[list[int]], encoder: PromptEncoder, options: PeerOptions
    ) -> None:
        end = encoder.layout.terminator or ""
        labels = [encoder.layout.answer(label) for label in encoder.candidates.labels]
        self.name, self._prompts, self._options = name, prompts, options
        self._answers = frozenset(labels)
        self._stop = [end] if end else []
        self._longest = max(len(encoder.label_ids(label)) for label in encoder.candidates.labels)
        # Tokens chosen under a grammar of characters may be shorter than training's.
        self._max_tokens = max(len(label.encode()) for label in labels) + 2
        self._llama: Any = stock_llama(
            bundle,
            n_ctx=max(map(len, prompts)) + self._max_tokens + 8,
            n_threads=options.threads,
            n_threads_batch=options.threads,
            n_gpu_layers=0,
            flash_attn=not options.follow,
            verbose=False,
        )
        self._grammar = llama_cpp.LlamaGrammar.from_string(
            character_grammar([label + end for label in labels]).text, verbose=False
        )
        started = perf_counter()
        # Not the first prompt to be timed: asked again, it would cost next to nothing.
        self.complete(prompts[CYCLE])
        self.seconds = perf_counter() - started

    def turn(self, i: int) -> Mapping[str, Sample]:
        """See `Scenario`."""
        if not self._options.turns.include(i):
            if self._options.follow:
                self._llama.eval(self._new(self._prompts[i]))
            return {}
        if not self._options.cached:
            self._llama.reset()
        with watched_decodes() as decodes:
            started = perf_counter()
            self.complete(self._prompts[i])
            ms = (perf_counter() - started) * 1000
        return {self.name: Sample(ms, sum(d.tokens for d in decodes))}

    def complete(self, prompt: list[int]) -> str:
        """The label that greedy sampling under the grammar ends at.

        Raises:
            EdgebError: the completion is no label.
        """
        done = self._llama.create_completion(
            prompt, max_tokens=self._max_tokens, temperature=0.0, grammar=self._grammar, stop=self._stop
        )
        text = str(done["choices"][0]["text"])
        if text not in self._answers:
            raise EdgebError(f"the grammar completion gave {text!r}, which is no label", "report this as a bug")
        return text

    def close(self) -> None:
        """See `Scenario`."""
        self._llama.close()

    def _new(self, prompt: list[int]) -> list[int]:
        """The part of `prompt` that is not in the cache, which is cut back to their common beginning."""
        held = self._llama.input_ids[: self._llama.n_tokens].tolist()
        common = 0
        for ours, theirs in zip(held, prompt[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        self._llama.n_tokens = common
        return prompt[common:]


class LabelPeer:
    """Every label scored by itself: log-probability of its tokens and terminator after the prompt.

    With `cached`, the prompt is evaluated once per prediction, on top of the static part, and only the labels one by
    one. Without, every label is one decode of the whole prompt and the label, as in the plain scoring loop.

    Args:
        name: Scenario name.
        prompts: Token ids per round.
        encoder: Labels and how they end.

    Attributes:
        name: See `name`.
        seconds: Estimate of what a prediction takes, from its first decodes.
    """

    def __init__(
        self, model: LlamaModel, name: str, prompts: Sequence[list[int]], encoder: PromptEncoder, options: PeerOptions
    ) -> None:
        self.name, self._prompts, self._options = name, prompts, options
        self._paths = [encoder.label_ids(label) for label in encoder.candidates.labels]
        longest = max(map(len, self._paths))
        self._static = len(encoder.static_ids)
        positions = max(map(len, prompts)) + longest
        wanted = ContextOptions(positions, options.threads, rows=longest, flash=not options.cached)
        self._context = LlamaContext(model, wanted)
        if options.cached:
            self._context.decode(encoder.static_ids)
            path = max(self._paths, key=len)
            each = self._context.decode(path[:-1]) if len(path) > 1 else 0.0
        else:
            each = self._context.decode(prompts[0])
        self.seconds = each * len(self._paths)

    def turn(self, i: int) -> Mapping[str, Sample]:
        """See `Scenario`."""
        if not self._options.turns.include(i):
            return {}
        started = perf_counter()
        tokens = self.score(self._prompts[i])[1]
        return {self.name: Sample((perf_counter() - started) * 1000, tokens)}

    def score(self, prompt: list[int]) -> tuple[NDArray[np.float64], int]:
        """Log-probability [B] of each label under the full vocabulary, and how many tokens that took."""
        context, tokens = self._context, 0
        root: NDArray[np.float32] | None = None
        if self._options.cached:
            context.keep(self._static)
            context.decode(prompt[self._static :])
            tokens += len(prompt) - self._static
            root = context.row(-1).copy()
        scores = []
        for path in self._paths:
            before = len(prompt) if root is not None else 0
            context.keep(before)
            new = (prompt + path[:-1])[before:]
            rows = [] if root is None else [root]
            if new:
                wanted = range(len(prompt) - 1 - before if root is None else 0, len(new))
                context.decode(new, wanted)
                rows += [context.row(k) for k in wanted]
                tokens += len(new)
            scores.append(sum(_log_prob(row, token) for row, token in zip(rows, path, strict=True)))
        return np.array(scores), tokens

    def close(self) -> None:
        """See `Scenario`."""
        self._context.close()


def _log_prob(row: NDArray[np.float32], token: int) -> float:
    top = row.max()
    return float(row[token] - top) - float(np.log(np.exp(row - top).sum()))
