"""The public runtime: load a bundle once, then rank the candidates for a history and a next context."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import perf_counter
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle import Manifest, read_manifest, verify_bundle
from edge_behavior.encoding import PromptEncoder
from edge_behavior.errors import EdgebError
from edge_behavior.events import BehaviorEvent
from edge_behavior.runtime.backend import Backend
from edge_behavior.scoring import check_scoring, exact_log_probs, log_softmax, masked_log_probs

# Tokens of a context line besides its label: day, hour, punctuation, and a place of at most 48 characters.
_LINE_TOKENS = 64


@dataclass(frozen=True)
class RankedBehavior:
    """One candidate and its probability among the candidates."""

    behavior: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a prediction says and what it cost.

    Attributes:
        ranked: Candidates by falling probability, `top_k` of them.
        scoring: `exact` or `masked`.
        tokens_evaluated: Tokens the model was run on.
        latency_ms: Wall time of the call, milliseconds.
    """

    ranked: tuple[RankedBehavior, ...]
    scoring: str
    tokens_evaluated: int
    latency_ms: float


class Predictor:
    """Predicts a user's next behavior over the candidate set of one bundle.

    May be shared between threads: calls take turns. Consecutive prompts that begin alike share that beginning in
    the model's cache. Use as a context manager, or call `close`.
    """

    def __init__(self, manifest: Manifest, backend: Backend) -> None:
        self.manifest = manifest
        self._backend: Backend | None = backend
        self._lock = threading.Lock()
        self._encoder = PromptEncoder(
            backend.tokenize, manifest.layout, manifest.candidates, manifest.bos_id, manifest.eos_id
        )
        trie = self._encoder.trie
        self._parent_row = np.searchsorted(trie.inner, trie.parents[1:])

    @classmethod
    def load(
        cls, bundle: Path, *, threads: int | None = None, verify: bool = True, exact_math: bool = False
    ) -> Predictor:
        """Open a bundle with llama.cpp.

        Args:
            threads: CPU threads; None takes the physical cores.
            verify: Check the file against its hashes first.
            exact_math: F32 cache and no flash attention, for parity checks.

        Raises:
            EdgebError: not a bundle, damaged, of a newer version, or not loadable.
        """
        from edge_behavior.runtime.llamacpp import LlamaBackend, LlamaOptions

        manifest = verify_bundle(bundle) if verify else read_manifest(bundle)
        options = LlamaOptions(n_ctx=_context_needed(manifest), threads=threads, exact=exact_math)
        backend = LlamaBackend(bundle, options)
        try:
            return cls(manifest, backend)
        except BaseException:
            backend.close()
            raise

    def predict(
        self,
        history: Sequence[BehaviorEvent],
        when: datetime,
        place: str,
        top_k: int | None = None,
        scoring: str = "exact",
    ) -> Prediction:
        """Rank the candidates for the behavior at `when` in `place` after `history`.

        Args:
            history: Oldest first, any length; the layout's last L events count.
            top_k: How many candidates to return; None for all.
            scoring: `exact` or `masked`, see `scoring`.

        Raises:
            EdgebError: a behavior outside the candidate set, time going backwards, a prompt that does not fit.
        """
        started = perf_counter()
        if top_k is not None and top_k < 1:
            raise EdgebError(f"top_k is {top_k}", "ask for at least one candidate")
        self._check(history, when)
        with self._lock:
            log_probs, tokens = self._score(history, when, place, check_scoring(scoring))
        probabilities = np.exp(log_softmax(log_probs))
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        labels = self.manifest.candidates.labels
        ranked = tuple(RankedBehavior(labels[i], float(probabilities[i])) for i in order)
        return Prediction(ranked, scoring, tokens, (perf_counter() - started) * 1000)

    def log_probs(
        self, history: Sequence[BehaviorEvent], when: datetime, place: str, scoring: str = "exact"
    ) -> NDArray[np.float64]:
        """Log-probabilities [B] in candidate order: of the full vocabulary for `exact` (not renormalized)."""
        self._check(history, when)
        with self._lock:
            return self._score(history, when, place, check_scoring(scoring))[0]

    def close(self) -> None:
        """Free native memory."""
        with self._lock:
            if self._backend is not None:
                self._backend.close()
            self._backend = None

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check(self, history: Sequence[BehaviorEvent], when: datetime) -> None:
        for i, event in enumerate(history):
            self.manifest.candidates.code(event.behavior, f"history event {i + 1}")
            if i and event.time < history[i - 1].time:
                raise EdgebError(f"history event {i + 1} is before the one it follows", "sort the history by time")
        if history and when < history[-1].time:
            raise EdgebError(
                f"the time asked for, {when.isoformat(timespec='minutes')}, is before the last event of the history "
                f"({history[-1].time.isoformat(timespec='minutes')})",
                "ask for a later time",
            )

    def _score(
        self, history: Sequence[BehaviorEvent], when: datetime, place: str, scoring: str
    ) -> tuple[NDArray[np.float64], int]:
        if self._backend is None:
            raise EdgebError("the predictor is closed", "load the bundle again")
        encoder, trie = self._encoder, self._encoder.trie
        root, tokens = self._backend.prefill(encoder.prompt_ids(history, when, place))
        # Masked scoring has no use for rows in which there is nothing to choose.
        nodes = trie.evaluated if scoring == "exact" else trie.choices
        rows = np.empty((len(trie.inner), len(root)), dtype=np.float32)
        rows[0] = root
        if len(nodes):
            rows[np.searchsorted(trie.inner, nodes)] = self._backend.branch(trie, nodes)
        token_logits = np.zeros(len(trie))
        if scoring == "masked":
            known = np.isin(trie.parents[1:], np.append(nodes, 0))
            token_logits[1:][known] = rows[self._parent_row[known], trie.tokens[1:][known]]
            return masked_log_probs(trie, token_logits), tokens + len(nodes)
        token_logits[1:] = rows[self._parent_row, trie.tokens[1:]]
        return exact_log_probs(trie, token_logits, _logsumexp(rows)), tokens + len(nodes)


def _logsumexp(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    top = rows.max(axis=1)
    return np.asarray(top + np.log(np.exp(rows - top[:, None]).sum(axis=1, dtype=np.float64)), dtype=np.float64)


def _context_needed(manifest: Manifest) -> int:
    """Positions for the longest usual prompt and its trie, rounded up; never more than the model was built for."""
    labels = [len(label.encode()) for label in manifest.candidates.labels]
    line = _LINE_TOKENS + max(labels)
    static = len(manifest.static_prompt.encode()) // 2 + 64
    needed = static + (manifest.layout.history_length + 1) * line + sum(labels) // 2 + 2 * len(labels)
    return min(-(-needed // 256) * 256, manifest.context_length)
