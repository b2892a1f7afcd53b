"""The public runtime: load a bundle once, then rank the candidates for a history and a next context."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from time import perf_counter
from types import TracebackType

from edge_behavior.bundle import Manifest, bundle_bytes, read_manifest, verify_bundle
from edge_behavior.errors import EdgebError
from edge_behavior.events import BehaviorEvent
from edge_behavior.runtime.backend import Backend
from edge_behavior.runtime.engine import Engine
from edge_behavior.runtime.prediction import Prediction, RankedBehavior, Request
from edge_behavior.runtime.session import ANCHOR_EVERY, Session
from edge_behavior.scoring import Floats, check_scoring
from edge_behavior.workspace import home

__all__ = ["Prediction", "Predictor", "RankedBehavior", "Session"]

# Tokens of a context line besides its label: day, hour, punctuation, and a place of at most 48 characters.
_LINE_TOKENS = 64
# Below so many bytes threads wait for each other longer than they compute.
SMALL_BUNDLE = 10_000_000


class Predictor:
    """Predicts a user's next behavior over the candidate set of one bundle.

    May be shared between threads: calls take turns. Consecutive prompts that begin alike share that beginning in
    the model's cache. Use as a context manager, or call `close`.
    """

    def __init__(self, manifest: Manifest, backend: Backend) -> None:
        self.manifest = manifest
        self._engine = Engine(manifest, backend)

    @classmethod
    def load(
        cls,
        bundle: Path,
        *,
        threads: int | None = None,
        verify: bool = True,
        exact_math: bool = False,
        prefix_cache: bool | Path = True,
    ) -> Predictor:
        """Open a bundle: a GGUF file with llama.cpp, a folder with onnxruntime-genai.

        Args:
            threads: CPU threads; None takes the physical cores, one for a bundle below 10 MB.
            verify: Check the file against its hashes first.
            exact_math: F32 cache, for parity checks; an ONNX model's cache has the precision it was built with.
            prefix_cache: Folder of snapshots of the static prompt; True takes edgeb's own, False keeps none.
                onnxruntime-genai cannot save a cache: the static prompt is evaluated at every start.

        Raises:
            EdgebError: not a bundle, damaged, of a newer version, or not loadable.
        """
        manifest = verify_bundle(bundle) if verify else read_manifest(bundle)
        backend = open_backend(bundle, context_needed(manifest), threads, exact_math)
        try:
            predictor = cls(manifest, backend)
            if prefix_cache is not False:
                predictor.warm(home() / "prefix" if prefix_cache is True else prefix_cache)
        except BaseException:
            backend.close()
            raise
        return predictor

    def warm(self, folder: Path) -> bool:
        """Hold the static prompt, from a snapshot in `folder` where there is one; says whether there was."""
        with self._engine.lock:
            return self._engine.warm(folder)

    def predict(
        self,
        history: Sequence[BehaviorEvent],
        when: datetime,
        place: str | None = None,
        top_k: int | None = None,
        scoring: str = "exact",
        *,
        source: str | None = None,
        only: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        exhaustive: bool = False,
        calibrated: bool = True,
        precision: float | None = None,
        coverage: float | None = None,
    ) -> Prediction:
        """Rank the candidates for the behavior at `when` in `place` after `history`.

        Args:
            history: Oldest first, any length; the model sees the layout's last L events, habits count all. The
                places of its events are not read where the bundle has none.
            place: Needed where the bundle's prompts name a place (`manifest.layout.places`), refused where not.
            top_k: How many candidates to return; None for all.
            scoring: `exact` or `masked`, see `scoring`.
            source: `model`, `habits` or `fused`; None takes the bundle's default.
            only: Labels to rank; None for all.
            exclude: Labels to leave out.
            exhaustive: Expand the whole trie, so that every probability is exact.
            calibrated: Calibrate the probabilities where the bundle can; False gives the source's own.
            precision: Also decide whether to suggest the first candidate, see `Request`.
            coverage: Also name the candidates that hold the truth this often, see `Request`.

        Raises:
            EdgebError: a behavior outside the candidate set, time going backwards, a place missing or too many, a
                prompt that does not fit, a precision or coverage that the bundle is not calibrated for.
        """
        started = perf_counter()
        request = Request(top_k, scoring, source, only, exclude, exhaustive, calibrated, precision, coverage)
        self._check(history, when)
        where = self.manifest.layout.place_of(place)
        with self._engine.lock:
            wanted = self._engine.source(request)
            habits = None if wanted == "model" else self._habits(history, when, where)
            ids = [] if wanted == "habits" else self._engine.encoder.prompt_ids(history, when, where)
            return self._engine.answer(ids, habits, request, started)

    def log_probs(
        self, history: Sequence[BehaviorEvent], when: datetime, place: str | None = None, scoring: str = "exact"
    ) -> Floats:
        """The model's log-probabilities [B] in candidate order; `place` as for `predict`.

        Under the full vocabulary for `exact`, so not renormalized over the candidates.
        """
        self._check(history, when)
        where = self.manifest.layout.place_of(place)
        with self._engine.lock:
            ids = self._engine.encoder.prompt_ids(history, when, where)
            return self._engine.log_probs(ids, check_scoring(scoring))

    def session(self, anchor_every: int = ANCHOR_EVERY) -> Session:
        """A new session: events are appended as they happen, and predictions pay only for what is new.

        Args:
            anchor_every: Events by which the window may grow beyond the layout's L before it is anchored anew.
        """
        return Session(self._engine, anchor_every)

    def restore(self, path: Path) -> Session:
        """Continue a session that `Session.save` wrote.

        Raises:
            EdgebError: damaged, of another version, of another model or of another candidate list.
        """
        return Session.restore(path, self._engine)

    def close(self) -> None:
        """Free native memory."""
        with self._engine.lock:
            self._engine.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _habits(self, history: Sequence[BehaviorEvent], when: datetime, place: str) -> Floats:
        counter, candidates = self._engine.counter(), self.manifest.candidates
        for event in history:
            counter.observe(candidates.code(event.behavior), event.time, event.place)
        return counter.log_probs(when, place)

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


def open_backend(bundle: Path, n_ctx: int, threads: int | None = None, exact: bool = False) -> Backend:
    """The engine of a bundle, arguments as `Predictor.load` takes them; only the one that is needed is imported."""
    if threads is None and bundle_bytes(bundle) < SMALL_BUNDLE:
        threads = 1
    if bundle.is_dir():
        from edge_behavior.runtime.onnx_backend import OnnxBackend, OnnxRunOptions

        return OnnxBackend(bundle, OnnxRunOptions(n_ctx, threads))
    from edge_behavior.runtime.llamacpp import LlamaBackend, LlamaOptions

    return LlamaBackend(bundle, LlamaOptions(n_ctx, threads, exact))


def context_needed(manifest: Manifest) -> int:
    """Positions for the longest usual prompt and its trie, rounded up; never more than the model was built for."""
    labels = [len(label.encode()) for label in manifest.candidates.labels]
    line = _LINE_TOKENS + max(labels)
    static = len(manifest.static_prompt.encode()) // 2 + 64
    needed = static + (manifest.layout.history_length + 1) * line + sum(labels) // 2 + 2 * len(labels)
    return min(-(-needed // 256) * 256, manifest.context_length)
