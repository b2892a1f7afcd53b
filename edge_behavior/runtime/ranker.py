"""What a predictor and its sessions share: one loaded model with its cache, searches, fusion, calibration and lock.

Turns prompt ids and habits into ranked candidates. Knows nothing of histories or of how prompts are built.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.balance import balance_offsets
from edge_behavior.core.calibration import Calibration
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.fusion import Fusion
from edge_behavior.core.habits import HabitCounter
from edge_behavior.core.population import PopulationTable
from edge_behavior.core.scoring import Floats
from edge_behavior.core.search import RANKS_ONLY, Affine, Goal, SearchResult, Thresholds, TrieSearch
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.base import Backend, Row
from edge_behavior.runtime.lifetime import Lifetime, Turns
from edge_behavior.runtime.prediction import Prediction, PredictOptions, RankedBehavior
from edge_behavior.runtime.prefix_cache import PrefixCache

_KEPT_SEARCHES = 32
# Candidates beyond those that a search expects to need, for calls that have room.
_SPARE = 8


class Ranker:
    """Ranks the candidates of one bundle.

    Callers take a `turn` around everything that uses the cache, as `Predictor` and `Session` do.

    Raises:
        EdgebError: a manifest whose start, end or chat tokens are not in the model's vocabulary.
    """

    def __init__(self, manifest: Manifest, backend: Backend, population: PopulationTable | None = None) -> None:
        self.manifest, self.population = manifest, population
        self._lifetime = Lifetime(self)
        self._turns = Turns(self._lifetime)
        self.encoder = PromptEncoder(
            backend.tokenize, manifest.layout, manifest.candidates, manifest.bos_id, manifest.eos_id
        )
        chat = manifest.layout.chat
        fixed = [("bos_id", manifest.bos_id), ("eos_id", manifest.eos_id)]
        for name, id_ in (*fixed, *(("layout.chat", i) for i in (() if chat is None else chat.ids))):
            if id_ is not None and not 0 <= id_ < backend.n_vocab:
                raise EdgebError(
                    f"manifest field '{name}' is {id_}, the model has {backend.n_vocab} tokens",
                    "export the bundle again",
                )
        self._groups = manifest.candidates.groups()
        mixture = manifest.habits
        self._fusion = None if mixture is None else Fusion(mixture.weights, self._groups)
        self._backend = backend
        self._searches: dict[tuple[str, bytes | None], TrieSearch] = {}
        # The last prediction's top candidates are a good guess of what the next search expands.
        self._expected: Floats = manifest.candidates.shares

    def turn(self) -> AbstractContextManager[None]:
        """The lock that every user of this model takes; see `Turns.turn`.

        Raises:
            EdgebError: closed, or loaded before a fork.
        """
        return self._turns.turn()

    @property
    def backend(self) -> Backend:
        """The inference engine.

        Raises:
            EdgebError: closed, or loaded before a fork.
        """
        self._lifetime.check()
        return self._backend

    def warm(self, folder: Path) -> bool:
        """Load the static part of the prompt into the cache; whether a snapshot in `folder` was used."""
        return PrefixCache(folder, self.manifest.tensors_sha256).warm(self.backend, self.encoder.static_ids)

    def counter(self) -> HabitCounter:
        """A new user's habit counter."""
        manifest = self.manifest
        config = None if manifest.habits is None else manifest.habits.config
        return HabitCounter(manifest.candidates.counts, config, manifest.layout.places, self.population)

    def source(self, options: PredictOptions) -> str:
        """The source that answers: `model`, `habits` or `fused`.

        Raises:
            EdgebError: `fused` is requested, but the bundle has no fusion weights.
        """
        source = options.source or self.manifest.default_source
        if source == "fused" and self._fusion is None:
            raise EdgebError(
                "the bundle has no weights to fuse model and habits", "export it with --data, or use source model"
            )
        return source

    def balance(self, options: PredictOptions) -> float:
        """τ for the source that answers.

        Raises:
            EdgebError: the fitted τ is requested, and the bundle has none.
        """
        return self.manifest.balance_of(self.source(options), options.balance)

    def calibration(self, options: PredictOptions) -> Calibration | None:
        """The calibration of the source that answers; None where probabilities stay raw.

        Calibrations are fitted under `exact` scoring, so model and fusion stay raw under `masked` scoring, and at two
        balances, 0 and the fitted one, so that every source stays raw at others.

        Raises:
            EdgebError: precision or coverage is requested where there is no calibration.
        """
        source, balance = self.source(options), self.balance(options)
        exact = options.scoring == "exact" or source == "habits"
        found = self.manifest.calibration_at(source, balance) if options.calibrated and exact else None
        if found is None and (options.precision is not None or options.coverage is not None):
            if not self.manifest.calibrations:
                raise EdgebError(
                    "the bundle is not calibrated", "export it with --data, with 10 or more validation users"
                )
            if exact:
                raise EdgebError(
                    f"precision and coverage were not measured at balance {balance:g}", self._balances(source)
                )
            raise EdgebError("precision and coverage were measured under exact scoring", "use scoring exact")
        return found

    def _balances(self, source: str) -> str:
        """The balances at which a source is calibrated, as a hint."""
        fitted = self.manifest.balance
        if fitted is None or fitted.calibration is None:
            return "use balance 0"
        return f"use balance 0, or the fitted {fitted.fitted[source]:g}"

    def answer(
        self, ids: Sequence[int], habits: Floats | None, top_k: int | None, options: PredictOptions, started: float
    ) -> Prediction:
        """Rank the candidates after a prompt.

        Args:
            ids: The prompt; empty where habits alone answer.
            habits: [B] log-probabilities of the user's habits; None where the model alone answers.
            top_k: How many candidates to return; None for all.
            options: Scoring, source, restrictions, decisions.
            started: `perf_counter()` at the start of the call, for the latency.
        """
        source, balance, calibration = self.source(options), self.balance(options), self.calibration(options)
        offsets = balance_offsets(balance, self.manifest.candidates.counts)
        thresholds = _thresholds(calibration, options)
        decoding = self.backend.decode_seconds
        allowed = options.allowed(self.manifest.candidates)
        if source == "habits":
            assert habits is not None
            scores = habits + offsets
            scores = scores if calibration is None else calibration.scores(scores, self._groups)
            scores = scores if allowed is None else np.where(allowed, scores, -np.inf)
            log_total, unexpanded, tokens = float(np.logaddexp.reduce(scores)), 0.0, 0
        else:
            slope, offset = np.ones(len(offsets)), offsets
            if source == "fused":
                assert habits is not None
                assert self._fusion is not None
                slope, offset = self._fusion.affine(habits)
                offset = offset + offsets
            affine = Affine(slope, offset)
            if calibration is not None:
                affine = _calibrated(affine, calibration, self._groups)
            goal = Goal(top_k, 0.0 if options.exhaustive else RANKS_ONLY, thresholds)
            found, tokens = self._search(ids, options.scoring, goal, allowed, affine)
            scores, log_total, unexpanded = found.scores, found.log_total, found.unexpanded
            # Candidates that are not known have only an upper bound: they rank after all that are.
            scores = np.where(found.known, scores, -np.inf)
        count = len(scores) if allowed is None else int(allowed.sum())
        order, probs = np.argsort(-scores, kind="stable"), np.exp(scores - log_total)
        labels = self.manifest.candidates.labels
        ranked = tuple(RankedBehavior(labels[i], float(probs[i])) for i in order[: min(top_k or count, count)])
        suggest, likely = None, None
        if options.precision is not None:
            suggest = thresholds.first is not None and bool(probs[order[0]] >= thresholds.first)
        if options.coverage is not None:
            likely = tuple(labels[i] for n, i in enumerate(order) if n == 0 or probs[i] >= (thresholds.each or 0.0))
        return Prediction(
            ranked=ranked,
            scoring=options.scoring,
            source=source,
            tokens_evaluated=tokens,
            latency_ms=(perf_counter() - started) * 1000,
            decode_ms=(self.backend.decode_seconds - decoding) * 1000,
            unexpanded=unexpanded,
            calibrated=calibration is not None,
            balance=balance,
            suggest=suggest,
            likely=likely,
        )

    def log_probs(self, ids: Sequence[int], scoring: str) -> Floats:
        """The model's log-probabilities [B] in candidate order; expands the whole trie."""
        return self._search(ids, scoring, Goal())[0].log_probs

    def close(self) -> None:
        """Free native memory once no call is running; in a forked child, do nothing."""
        if not self._lifetime.is_elsewhere:
            self._turns.after(self._close)

    def _close(self) -> None:
        self._lifetime.close()
        self._backend.close()

    def __reduce__(self) -> NoReturn:
        raise EdgebError("a predictor and its sessions cannot be pickled", "pass the bundle's path, and load it there")

    def _search(
        self,
        ids: Sequence[int],
        scoring: str,
        goal: Goal,
        allowed: NDArray[np.bool_] | None = None,
        affine: Affine | None = None,
    ) -> tuple[SearchResult, int]:
        """Search after the prompt `ids`: the result, and the number of tokens evaluated."""
        search = self._search_of(scoring, allowed)
        hint, spare = list[int](), list[int]()
        if goal.top_k is not None and not goal.everything:
            # One more than wanted, which has to be proven worse.
            hint = search.expected_nodes(self._expected, goal.top_k + 1)
            spare = search.expected_nodes(self._expected, goal.top_k + 1 + _SPARE)[len(hint) :]
        root, tokens = self.backend.prefill(ids, self.encoder.trie, hint, spare)

        def expand(nodes: list[int]) -> Sequence[Row]:
            nonlocal tokens
            rows, evaluated = self.backend.branch(self.encoder.trie, nodes)
            tokens += evaluated
            return rows

        found = search.run(root, expand, goal, affine, self.backend.at_hand(self.encoder.trie))
        if allowed is None:
            self._expected = found.scores
        return found, tokens

    def _search_of(self, scoring: str, allowed: NDArray[np.bool_] | None) -> TrieSearch:
        key = (scoring, None if allowed is None else allowed.tobytes())
        if key not in self._searches:
            if len(self._searches) >= _KEPT_SEARCHES:
                self._searches.clear()
            self._searches[key] = TrieSearch(self.encoder.trie, scoring, allowed)
        return self._searches[key]


def _calibrated(affine: Affine, calibration: Calibration, groups: Sequence[str]) -> Affine:
    """Calibration applied after `affine`: still affine and increasing in the model's log-probability."""
    offsets = calibration.offsets(groups)
    return Affine(affine.slope / calibration.temperature, affine.offset / calibration.temperature + offsets)


def _thresholds(calibration: Calibration | None, options: PredictOptions) -> Thresholds:
    """Thresholds of the requested decisions; with a precision requested, `first` None means never to suggest."""
    if calibration is None:
        return Thresholds()
    first = None if options.precision is None else calibration.suggest_threshold(options.precision)
    each = None if options.coverage is None else calibration.set_threshold(options.coverage)
    return Thresholds(first, each)
