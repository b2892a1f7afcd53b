"""The public Python runtime: load a bundle once, then rank the candidates for a history and a next context."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from time import perf_counter
from types import TracebackType

from edge_behavior.bundle.bundle import bundle_bytes, bundle_form, read_manifest, read_population, verify_bundle
from edge_behavior.bundle.folder import holds_safetensors
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core import DEFAULT_TOP_K, REBASE_EVERY
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.population import PopulationTable
from edge_behavior.core.scoring import Floats, check_scoring
from edge_behavior.core.times.event_order import check_order, check_step
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.accelerator import Accelerator, check_chip, chosen_accelerator
from edge_behavior.runtime.arguments import as_path, check_flag, check_query, check_text, checked_top_k
from edge_behavior.runtime.backends.base import Backend, CountsCalls
from edge_behavior.runtime.prediction import DEFAULT_OPTIONS, Prediction, PredictOptions, RankedBehavior
from edge_behavior.runtime.ranker import Ranker
from edge_behavior.runtime.session import Session
from edge_behavior.util.cpus import physical_cores, usable_threads
from edge_behavior.util.workspace import home

__all__ = ["PredictOptions", "Prediction", "Predictor", "RankedBehavior", "Session"]

# Tokens of an event's line without its label: day, hour, punctuation, and a place of at most 48 characters.
_LINE_TOKENS = 64
# Tokens of an instruct prompt around its history and its candidates.
_WORDING_TOKENS = 128
# Bytes below which one thread is faster than several.
SMALL_BUNDLE = 10_000_000


class Predictor:
    """Predicts a user's next behavior over the candidate set of one bundle.

    May be shared between threads: calls take turns. A process forked after loading has to load the bundle itself.
    Consecutive prompts reuse their common prefix in the model's cache. Use as a context manager, or call `close`;
    memory is also freed when the last reference to the predictor and its sessions is gone.

    Attributes:
        manifest: The bundle's.
        population: What people in general do; None where the bundle has no table.
        accelerator: What evaluates a LiteRT bundle, all of it; None for other bundles.
    """

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        population: PopulationTable | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.manifest, self.population, self.accelerator = manifest, population, accelerator
        self._ranker = Ranker(manifest, backend, population)

    @classmethod
    def load(
        cls,
        bundle: Path | str,
        *,
        threads: int | None = None,
        verify: bool = True,
        exact_math: bool = False,
        prefix_cache: bool | Path | str = True,
        accelerator: str | None = None,
        chip: str | None = None,
    ) -> Predictor:
        """Open a bundle: a GGUF file with llama.cpp, a LiteRT file with LiteRT, a folder with onnxruntime-genai.

        A sequence model, which is a GGUF file as well, is computed in NumPy.

        Args:
            threads: CPU threads, at most what affinity and the control group's quota allow this process; None uses the
                physical cores among these, or one thread for a bundle below 10 MB.
            verify: Check the bundle against its hashes first.
            exact_math: F32 cache, for parity checks. LiteRT's is always F32, and an ONNX model's has the precision it
                was built with.
            prefix_cache: Folder for snapshots of the evaluated static prompt; True uses edgeb's own, False none.
                onnxruntime-genai cannot save its cache: there the static prompt is evaluated at every start.
            accelerator: Of a LiteRT bundle: "cpu", as None means, "gpu", "npu": its context for this machine's chip, or
                "npu-emulated": a context under emulation, where only answers mean anything. Never falls back to
                another.
            chip: Whose context, like "sm8650"; None for the only one, or under emulation for the first that was
                emulated at export.

        Raises:
            EdgebError: not a bundle, damaged, written by a newer version, or not loadable; too many threads; an
                accelerator that is not there, that does not take the whole model, or that computes something else.
        """
        bundle = as_path(bundle, "bundle")
        check_flag(verify, "verify")
        check_flag(exact_math, "exact_math")
        folder = prefix_cache if isinstance(prefix_cache, bool) else as_path(prefix_cache, "prefix_cache")
        chosen = chosen_accelerator(bundle, accelerator)
        check_chip(chosen, chip)
        manifest = verify_bundle(bundle) if verify else read_manifest(bundle)
        population = read_population(bundle)
        backend = open_backend(bundle, context_needed(manifest), threads, exact_math, chosen, chip)
        try:
            predictor = cls(manifest, backend, population, chosen)
            if folder is not False:
                predictor.warm(home() / "prefix" if folder is True else folder)
        except BaseException:
            backend.close()
            raise
        return predictor

    def warm(self, folder: Path | str) -> bool:
        """Load the static prompt into the cache; returns whether a snapshot in `folder` was used."""
        with self._ranker.turn():
            return self._ranker.warm(as_path(folder, "folder"))

    def predict(
        self,
        history: Sequence[BehaviorEvent],
        when: datetime,
        place: str | None = None,
        top_k: int | None = DEFAULT_TOP_K,
        *,
        options: PredictOptions = DEFAULT_OPTIONS,
    ) -> Prediction:
        """Rank the candidates for the behavior at `when` in `place` after `history`.

        Args:
            history: Oldest first, any length: the model sees the layout's last L events, habits count all. A local
                clock may go back from one event to the next (`times.event_order`). Places are ignored where the bundle
                has none.
            when: Local time, without a zone.
            place: Required where the bundle's prompts name a place (`manifest.layout.places`), refused where not.
            top_k: How many candidates to return; None returns all, which expands the whole trie.
            options: Scoring, source, restrictions, decisions.

        Raises:
            EdgebError: a behavior outside the candidate set, a clock that goes back too far, a place that is missing or
                not wanted, a prompt that does not fit, a precision or coverage that the bundle is not calibrated for.
        """
        started = perf_counter()
        check_query(history, when, place)
        top_k = checked_top_k(top_k)
        history = self._checked(history, when)
        where = self.manifest.layout.place_of(place)
        with self._ranker.turn():
            source = self._ranker.source(options)
            habits = None if source == "model" else self._habits(history, when, where)
            ids = [] if source == "habits" else self._ranker.encoder.prompt_ids(history, when, where)
            return self._ranker.answer(ids, habits, top_k, options, started)

    def log_probs(
        self, history: Sequence[BehaviorEvent], when: datetime, place: str | None = None, scoring: str = "exact"
    ) -> Floats:
        """The model's log-probabilities [B] in candidate order; arguments as for `predict`.

        With `exact` scoring over the full vocabulary, that is not renormalized over the candidates.
        """
        check_query(history, when, place)
        check_text(scoring, "scoring")
        history = self._checked(history, when)
        where = self.manifest.layout.place_of(place)
        with self._ranker.turn():
            ids = self._ranker.encoder.prompt_ids(history, when, where)
            return self._ranker.log_probs(ids, check_scoring(scoring))

    @property
    def calls(self) -> int | None:
        """Runs of the model's graph since it was loaded, its check included; None for engines without calls."""
        backend = self._ranker.backend
        return backend.calls if isinstance(backend, CountsCalls) else None

    def session(self, rebase_every: int = REBASE_EVERY) -> Session:
        """A new session: append events as they happen; a prediction evaluates only what is new.

        Args:
            rebase_every: Events by which the window may grow beyond the layout's L before it is re-based (`Session`).
        """
        with self._ranker.turn():
            return Session(self._ranker, rebase_every)

    def restore(self, path: Path | str) -> Session:
        """Restore a session that `Session.save` wrote.

        Raises:
            EdgebError: damaged, or saved by another version, with another model or with another candidate set.
        """
        return Session.restore(as_path(path, "path"), self._ranker)

    def close(self) -> None:
        """Free native memory, after the call another thread may be in. Closing twice is no error.

        Afterwards predictor and sessions raise EdgebError from everything that computes; a session's `events` and
        `habits` can still be read.
        """
        self._ranker.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _habits(self, history: Sequence[BehaviorEvent], when: datetime, place: str) -> Floats:
        counter, candidates = self._ranker.counter(), self.manifest.candidates
        for event in history:
            counter.observe(candidates.code(event.behavior), event.time, event.place)
        return counter.log_probs(when, place)

    def _checked(self, history: Sequence[BehaviorEvent], when: datetime) -> list[BehaviorEvent]:
        """The history with behaviors in the candidates' spelling; refuses an order that no local clock produces."""
        known = [self.manifest.candidates.named(e, f"history event {i}") for i, e in enumerate(history, 1)]
        check_order([event.time for event in known], lambda i: f"history event {i + 1}")
        if known:
            check_step(known[-1].time, when, "the time asked for", "ask for a later time")
        return known


def open_backend(
    bundle: Path,
    n_ctx: int,
    threads: int | None = None,
    exact: bool = False,
    accelerator: str | None = None,
    chip: str | None = None,
) -> Backend:
    """The bundle's inference engine, arguments as for `Predictor.load`; imports the one that is needed."""
    chosen = chosen_accelerator(bundle, accelerator)
    threads = usable_threads(threads, 1 if bundle_bytes(bundle) < SMALL_BUNDLE else physical_cores())
    if bundle.is_dir() and holds_safetensors(bundle):
        raise EdgebError(
            f"{bundle} is a Hugging Face folder, which needs PyTorch",
            "use edgeb predict or evaluate, or a bundle exported with --format gguf",
        )
    if bundle.is_dir():
        from edge_behavior.runtime.backends.onnx import OnnxBackend, OnnxRunOptions

        return OnnxBackend(bundle, OnnxRunOptions(n_ctx, threads))
    if chosen is not None:
        from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
        from edge_behavior.runtime.npu.signatures import NpuRunOptions

        npu = NpuRunOptions(chip=check_chip(chosen, chip))
        return LiteRtBackend(bundle, LiteRtRunOptions(n_ctx, threads, chosen, npu))
    if bundle_form(bundle) == "sequence":
        from edge_behavior.runtime.backends.sequence import SequenceBackend

        return SequenceBackend(bundle, read_manifest(bundle))
    from edge_behavior.runtime.backends.llama import LlamaBackend, LlamaOptions

    return LlamaBackend(bundle, LlamaOptions(n_ctx, threads, exact))


def context_needed(manifest: Manifest) -> int:
    """Context length for the longest usual prompt and its trie, rounded up; at most what the model was built for."""
    labels = [len(label.encode()) for label in manifest.candidates.labels]
    line = _LINE_TOKENS + max(labels)
    chat = manifest.layout.chat
    static = len(manifest.static_prompt.encode()) // 2 + 64 + (0 if chat is None else len(chat.ids))
    if manifest.layout.name == "instruct":
        # The candidates are listed behind the history, in a wording.
        static += sum(labels) // 2 + len(labels) + _WORDING_TOKENS
    needed = static + (manifest.layout.history_length + 1) * line + sum(labels) // 2 + 2 * len(labels)
    return min(-(-needed // 256) * 256, manifest.context_length)
