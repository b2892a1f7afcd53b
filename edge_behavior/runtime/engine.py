"""One bundle's model with everything that predictor and sessions share: cache, tries, habits, calibration, one lock.

Turns prompt ids into ranked candidates. Knows neither histories nor how a prompt came about.
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
from edge_behavior.core.calibration import Calibration, read_calibrations
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.fusion import SOURCES, Fusion
from edge_behavior.core.habits import HabitCounter, HabitsConfig, read_fields
from edge_behavior.core.scoring import Floats
from edge_behavior.core.search import RANKS_ONLY, Affine, Found, Lines, TrieSearch
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.base import Backend, Row
from edge_behavior.runtime.lifetime import Lifetime, Turns
from edge_behavior.runtime.prediction import Prediction, RankedBehavior, Request
from edge_behavior.runtime.prefix_cache import PrefixCache

_KEPT_SEARCHES = 32


class Engine:
    """A model that ranks candidates at the end of a prompt.

    Callers take a `turn` around everything that uses the cache. `Predictor` and `Session` do.

    Raises:
        EdgebError: habits' settings or a calibration in the manifest that this edgeb refuses.
    """

    def __init__(self, manifest: Manifest, backend: Backend) -> None:
        self.manifest = manifest
        self._lifetime = Lifetime(self)
        self._turns = Turns(self._lifetime)
        self.encoder = PromptEncoder(
            backend.tokenize, manifest.layout, manifest.candidates, manifest.bos_id, manifest.eos_id
        )
        for name, id_ in (("bos_id", manifest.bos_id), ("eos_id", manifest.eos_id)):
            if id_ is not None and not 0 <= id_ < backend.n_vocab:
                raise EdgebError(
                    f"manifest field '{name}' is {id_}, the model has {backend.n_vocab} tokens",
                    "export the bundle again",
                )
        self.default_source, self._habits_config, self._fusion = _habits_of(manifest)
        self._calibrations = calibrations_of(manifest)
        self._groups = manifest.candidates.groups()
        self._backend = backend
        self._searches: dict[tuple[str, bytes | None], TrieSearch] = {}
        # What the last prediction found likely is probably looked at next time, too.
        self._expected: Floats = manifest.candidates.shares

    def turn(self) -> AbstractContextManager[None]:
        """The lock of everything that shares this engine; see `Turns.turn`.

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
        """Hold the static part of the prompt, from a snapshot in `folder` where there is one."""
        return PrefixCache(folder, self.manifest.tensors_sha256).warm(self.backend, self.encoder.static_ids)

    def counter(self) -> HabitCounter:
        """A user's habits, nothing observed yet."""
        return HabitCounter(self.manifest.candidates.counts, self._habits_config, self.manifest.layout.places)

    def source(self, request: Request) -> str:
        """Which distribution a request is about.

        Raises:
            EdgebError: fusion is asked for, but the bundle has no weights for it.
        """
        source = request.source or self.default_source
        if source == "fused" and self._fusion is None:
            raise EdgebError(
                "the bundle has no weights to fuse model and habits", "export it with --data, or ask for model"
            )
        return source

    def calibration(self, request: Request) -> Calibration | None:
        """What turns the scores of the source that answers into probabilities; None where they stay as they are.

        Calibration is fitted under `exact` scoring, so that model and fusion under `masked` scoring stay raw.

        Raises:
            EdgebError: a decision is asked for that needs a calibration where there is none.
        """
        source = self.source(request)
        exact = request.scoring == "exact" or source == "habits"
        found = self._calibrations.get(source) if request.calibrated and exact else None
        if found is None and (request.precision is not None or request.coverage is not None):
            if self._calibrations:
                raise EdgebError("precision and coverage were measured under exact scoring", "ask for scoring exact")
            raise EdgebError("the bundle is not calibrated", "export it with --data, with 10 or more validation users")
        return found

    def answer(self, ids: Sequence[int], habits: Floats | None, request: Request, started: float) -> Prediction:
        """Rank the candidates after a prompt.

        Args:
            ids: The prompt; not evaluated where only habits are asked for.
            habits: [B] log-probabilities of the user's habits; None where the source is the model.
            started: `perf_counter()` at the beginning of the call that is timed.
        """
        source, calibration = self.source(request), self.calibration(request)
        lines = _lines(calibration, request)
        decoding = self.backend.decode_seconds
        allowed = request.allowed(self.manifest.candidates)
        if source == "habits":
            assert habits is not None
            scores = habits if calibration is None else calibration.scores(habits, self._groups)
            scores = scores if allowed is None else np.where(allowed, scores, -np.inf)
            log_total, unexpanded, tokens = float(np.logaddexp.reduce(scores)), 0.0, 0
        else:
            affine = None
            if source == "fused":
                assert habits is not None
                assert self._fusion is not None
                affine = Affine(*self._fusion.affine(habits))
            if calibration is not None:
                affine = _calibrated(affine, calibration, self._groups)
            tolerance = 0.0 if request.exhaustive else RANKS_ONLY
            found, tokens = self._search(ids, request.scoring, allowed, affine, request.top_k, tolerance, lines)
            scores, log_total, unexpanded = found.scores, found.log_total, found.unexpanded
            # A bound is no rank: candidates that were not looked at come after all that were.
            scores = np.where(found.known, scores, -np.inf)
        count = len(scores) if allowed is None else int(allowed.sum())
        order, probs = np.argsort(-scores, kind="stable"), np.exp(scores - log_total)
        labels = self.manifest.candidates.labels
        ranked = tuple(RankedBehavior(labels[i], float(probs[i])) for i in order[: min(request.top_k or count, count)])
        suggest, likely = None, None
        if request.precision is not None:
            suggest = lines.first is not None and bool(probs[order[0]] >= lines.first)
        if request.coverage is not None:
            likely = tuple(labels[i] for n, i in enumerate(order) if n == 0 or probs[i] >= (lines.each or 0.0))
        return Prediction(
            ranked=ranked,
            scoring=request.scoring,
            source=source,
            tokens_evaluated=tokens,
            latency_ms=(perf_counter() - started) * 1000,
            decode_ms=(self.backend.decode_seconds - decoding) * 1000,
            unexpanded=unexpanded,
            calibrated=calibration is not None,
            suggest=suggest,
            likely=likely,
        )

    def log_probs(self, ids: Sequence[int], scoring: str) -> Floats:
        """[B] log-probabilities of the model in candidate order, the whole trie expanded."""
        return self._search(ids, scoring, None, None, None, 0.0)[0].log_probs

    def close(self) -> None:
        """Free native memory, once no call is under way. A forked child's copy is left alone."""
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
        allowed: NDArray[np.bool_] | None,
        affine: Affine | None,
        top_k: int | None,
        tolerance: float,
        lines: Lines | None = None,
    ) -> tuple[Found, int]:
        search = self._search_of(scoring, allowed)
        # One more than asked for: the first one out has to be known to be worse.
        hint = [] if top_k is None or tolerance == 0 else search.likely(self._expected, top_k + 1)
        root, tokens = self.backend.prefill(ids, self.encoder.trie, hint)

        def expand(nodes: list[int]) -> Sequence[Row]:
            nonlocal tokens
            rows, evaluated = self.backend.branch(self.encoder.trie, nodes)
            tokens += evaluated
            return rows

        found = search.run(root, expand, affine, top_k, tolerance, self.backend.at_hand(self.encoder.trie), lines)
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


def calibrations_of(manifest: Manifest) -> dict[str, Calibration]:
    """The calibration of every source of a bundle; empty where it has none.

    Raises:
        EdgebError: it is damaged, or not of the sources that the bundle has.
    """
    if manifest.calibration is None:
        return {}
    sources = SOURCES if manifest.habits is not None else tuple(name for name in SOURCES if name != "fused")
    return read_calibrations(manifest.calibration, sources, "manifest.calibration")


def _calibrated(affine: Affine | None, calibration: Calibration, groups: Sequence[str]) -> Affine:
    """Calibration after `affine`: still affine and rising in the model's log-probability, so searched as exactly."""
    offsets = calibration.offsets(groups)
    if affine is None:
        return Affine(np.full(len(offsets), 1 / calibration.temperature), offsets)
    return Affine(affine.slope / calibration.temperature, affine.offset / calibration.temperature + offsets)


def _lines(calibration: Calibration | None, request: Request) -> Lines:
    """Probabilities that the answer has to be compared with; a line for the first of None means: never suggest."""
    if calibration is None:
        return Lines()
    first = None if request.precision is None else calibration.least_suggested(request.precision)
    each = None if request.coverage is None else calibration.least_likely(request.coverage)
    return Lines(first, each)


def _habits_of(manifest: Manifest) -> tuple[str, HabitsConfig, Fusion | None]:
    """Default source, counter settings and fusion weights of a bundle."""
    if manifest.habits is None:
        return "model", HabitsConfig(), None
    where = "manifest.habits"
    held = read_fields(manifest.habits, ("config", "fusion", "default", "measured"), where)
    if held["default"] not in SOURCES:
        raise EdgebError(f"{where}: 'default' is {held['default']!r}", f"known sources are {', '.join(SOURCES)}")
    fusion = Fusion.from_dict(held["fusion"], manifest.candidates.groups(), f"{where}.fusion")
    return str(held["default"]), HabitsConfig.from_dict(held["config"], f"{where}.config"), fusion
