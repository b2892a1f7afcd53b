"""One bundle of a table: opened once, and asked the same questions as the others from the same states of its cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bench.engines.bare import open_watched
from edge_behavior.bench.engines.windows import Window
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.runtime.backends.base import Backend
from edge_behavior.runtime.prediction import Prediction, PredictOptions
from edge_behavior.runtime.predictor import Predictor, context_needed

# From an empty cache; with the prompt's static part held; the next step of a session; every candidate, from an empty
# cache.
SCENARIOS = ("empty", "static", "session", "all")
# Threads of an engine that has just answered may still spin, and would take from the next one's time.
_SETTLE_SECONDS = 0.02


@dataclass(frozen=True)
class Answer:
    """A timed prediction, and the engine's part of it.

    Attributes:
        ms: Wall time, milliseconds.
        bare_ms: The same calls of the engine once more, without anything around them.
        tokens: Tokens that the model was run on.
        rows: Of these, the ones whose logits the answer needs: the prompt's last, and the trie's nodes.
        scores: [B] the model's probabilities over the candidates, of `all`; else None.
        first: Code of the first candidate.
    """

    ms: float
    bare_ms: float
    tokens: int
    rows: int
    first: int
    scores: NDArray[np.float64] | None = None


class Contender:
    """A bundle in memory. Use as a context manager.

    Args:
        bundle: The bundle, verified before.
        manifest: Its manifest.
        threads: CPU threads.
        scoring: `exact` or `masked`.

    Attributes:
        engine: Engine and version.

    Raises:
        EdgebError: the engine is not installed, or cannot load it.
    """

    def __init__(self, bundle: Path, manifest: Manifest, threads: int, scoring: str) -> None:
        self._candidates = manifest.candidates
        # The model's own answer: what engines and weight formats change.
        self._options = PredictOptions(scoring=scoring, source="model", calibrated=False)
        with ExitStack() as stack:
            opened = stack.enter_context(open_watched(bundle, context_needed(manifest), threads))
            self._backend: Backend = opened[0]
            self._calls = opened[1]
            self.engine = self._backend.fingerprint.partition(",")[0]
            # Without the population: habits take no part in this.
            self._predictor = Predictor(manifest, self._backend)
            self.encoder = PromptEncoder(
                self._backend.tokenize, manifest.layout, manifest.candidates, manifest.bos_id, manifest.eos_id
            )
            self._stack = stack.pop_all()

    def turn(self, windows: Sequence[Window], i: int) -> dict[str, Answer]:
        """Round `i`: each scenario on another window, so that none is asked what was just answered."""
        sleep(_SETTLE_SECONDS)
        scenarios: dict[str, Callable[[Window], Answer]] = {
            "empty": lambda window: self._single(window, [self._foreign()], 1),
            "static": lambda window: self._single(window, self.encoder.static_ids, 1),
            "session": self._session,
            "all": lambda window: self._single(window, [self._foreign()], None),
        }
        return {name: scenarios[name](windows[window_of(name, i, len(windows))]) for name in SCENARIOS}

    def close(self) -> None:
        """Free the engine."""
        self._predictor.close()
        self._stack.close()

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _foreign(self) -> int:
        """A token that no prompt begins with: after it the cache holds nothing of any."""
        return (self.encoder.static_ids[0] + 1) % self._backend.n_vocab

    def _single(self, window: Window, held: list[int], top_k: int | None) -> Answer:
        """`Predictor.predict`, with some tokens in the cache."""
        self._backend.prefill(held)
        return self._timed(
            lambda: self._predictor.predict(window.history, window.when, window.place, top_k, options=self._options)
        )

    def _session(self, window: Window) -> Answer:
        """A session's step: observe what happened, then predict."""
        session = self._predictor.session()
        for event in window.events[:-1]:
            session.observe(event)
        last = window.events[-1]
        session.predict(last.time, window.last_place, 1, options=self._options)

        def step() -> Prediction:
            session.observe(last)
            return session.predict(window.when, window.place, 1, options=self._options)

        return self._timed(step)

    def _timed(self, predict: Callable[[], Prediction]) -> Answer:
        before = list(self._backend.held)
        with self._calls.noting():
            started = perf_counter()
            found = predict()
            ms = (perf_counter() - started) * 1000
        prompt = _new(before, self._backend.held)
        bare = self._calls.repeat() * 1000
        codes = [self._candidates.code(ranked.behavior) for ranked in found.ranked]
        scores = None
        if len(codes) == len(self._candidates):
            scores = np.zeros(len(codes))
            scores[codes] = [ranked.probability for ranked in found.ranked]
        # An engine that walks path by path evaluates some nodes twice; of the prompt it needs one row.
        rows = 1 + max(0, found.tokens_evaluated - prompt)
        return Answer(ms, bare, found.tokens_evaluated, rows, codes[0], scores)


def window_of(scenario: str, i: int, count: int) -> int:
    """Which of `count` windows a scenario is asked in round `i`."""
    return (i + SCENARIOS.index(scenario)) % count


def _new(before: Sequence[int], after: Sequence[int]) -> int:
    """Tokens of a prompt that were not held before; at least the last."""
    common = 0
    for old, new in zip(before, after[:-1], strict=False):
        if old != new:
            break
        common += 1
    return len(after) - common
