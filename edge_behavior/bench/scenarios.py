"""edgeb's own scenarios: session predictions, single-shot ones, and the static prompt.

A scenario is asked once per round and answers with what it timed, which may be nothing: expensive ones sit rounds
out. As they take turns, drift of the machine hits all of them alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol

from edge_behavior.bench.diary import Diary
from edge_behavior.bench.measurement import NpuWork
from edge_behavior.bench.native import Decode, watched_decodes
from edge_behavior.bench.options import CYCLE, DEPTHS, BenchOptions
from edge_behavior.bench.timing import Sample
from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.bundle.npu_folder import has_contexts, read_npu
from edge_behavior.runtime.backends.base import Backend
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.prediction import PredictOptions
from edge_behavior.runtime.predictor import Predictor, Session, context_needed
from edge_behavior.runtime.prefix_cache import PrefixCache

# Rounds in which an NPU's calls are counted at most.
_NPU_ROUNDS = 30


class Scenario(Protocol):
    """Something that is timed in turns."""

    def turn(self, i: int) -> Mapping[str, Sample]:
        """Round `i`: samples by scenario name, empty where this round is sat out."""

    def close(self) -> None:
        """Free native memory."""


def slot(i: int) -> int:
    """Which of the `CYCLE` slots round `i` is.

    Every block of `CYCLE` rounds has one of each, in changing order: what recurs every so many events, such as a
    session's re-basing, then hits all slots alike.
    """
    return (i + i // CYCLE) % CYCLE


def depth_of(i: int) -> str:
    """The session scenario whose turn it is in round `i`."""
    return list(DEPTHS)[slot(i)]


@dataclass(frozen=True)
class Turns:
    """The rounds in which a scenario is timed: of those with slot `due`, every n-th."""

    due: int
    every: int = 1

    def include(self, i: int) -> bool:
        """Whether round `i` is one of them."""
        return slot(i) == self.due and not (i // CYCLE) % self.every


def open_for_bench(bundle: Path, options: BenchOptions) -> Predictor:
    """A predictor without a snapshot of the static prompt; the file's hashes are not checked again."""
    return Predictor.load(
        bundle, threads=options.threads, verify=False, prefix_cache=False, accelerator=options.accelerator
    )


class SessionScenario:
    """One session: each round observes an event and predicts at the next one's time and place, timed together.

    Args:
        top_one_only: Prove only the best candidate (`session`) in every round.
    """

    def __init__(self, bundle: Path, diary: Diary, options: BenchOptions, top_one_only: bool = False) -> None:
        self._predictor = open_for_bench(bundle, options)
        self._diary, self._options = diary, PredictOptions(scoring=options.scoring, source="model")
        self._anchor_every, self._top_one_only = options.anchor_every, top_one_only
        self._session = self._start()

    def rehearse(self, rounds: int, go_on: Callable[[int], bool] = lambda cycle: True) -> list[list[Decode]]:
        """Run rounds untimed, note what each has the engine evaluate, and start over.

        Args:
            rounds: Most rounds.
            go_on: Asked before every cycle of rounds, with its number: whether there is time for it.
        """
        seen = []
        for i in range(rounds):
            if i % CYCLE == 0 and not go_on(i // CYCLE):
                break
            with watched_decodes() as decodes:
                self.turn(i)
            seen.append(decodes)
        self.restart()
        return seen

    def restart(self) -> None:
        """Begin again with the diary's first case."""
        self._session = self._start()

    def turn(self, i: int) -> Mapping[str, Sample]:
        """See `Scenario`."""
        case, depth = self._diary.case(i), "session" if self._top_one_only else depth_of(i)
        started = perf_counter()
        self._session.observe(case.observed)
        prediction = self._session.predict(case.when, case.place, DEPTHS[depth], options=self._options)
        ms = (perf_counter() - started) * 1000
        return {depth: Sample(ms, prediction.tokens_evaluated, prediction.decode_ms)}

    def close(self) -> None:
        """See `Scenario`."""
        self._predictor.close()

    def _start(self) -> Session:
        """A session that has seen a window of events and predicted once."""
        session = self._predictor.session(self._anchor_every)
        for event in self._diary.first_window:
            session.observe(event)
        last = self._diary.first_window[-1]
        place = last.place if self._diary.places else None
        session.predict(last.time, place, 1, options=self._options)
        return session


def npu_work(bundle: Path, diary: Diary, options: BenchOptions, most: float) -> NpuWork | None:
    """Calls and tokens of an NPU for a session's predictions; None for a bundle without contexts.

    Counted on the CPU, by calls of the NPU's one size: what is asked for next follows from the answers, which are the
    same but for rounding.

    Args:
        most: Seconds that it may take, one cycle of rounds aside.

    Raises:
        EdgebError: contexts that are another bundle's, or damaged.
    """
    manifest = read_manifest(bundle)
    if not has_contexts(bundle):
        return None
    size = read_npu(bundle, manifest.tensors_sha256).size
    backend = LiteRtBackend(bundle, LiteRtRunOptions(context_needed(manifest), options.threads, size=size))
    work = NpuWork(size, {name: [] for name in DEPTHS}, {name: [] for name in DEPTHS})
    predicting = PredictOptions(scoring=options.scoring, source="model")
    started = perf_counter()
    with Predictor(manifest, backend) as predictor:
        session = predictor.session(options.anchor_every)
        for event in diary.first_window:
            session.observe(event)
        session.prepare()
        for i in range(min(options.rounds, len(diary), _NPU_ROUNDS)):
            if i % CYCLE == 0 and i and perf_counter() - started > most:
                break
            case, depth, calls = diary.case(i), depth_of(i), backend.calls
            session.observe(case.observed)
            found = session.predict(case.when, case.place, DEPTHS[depth], options=predicting)
            work.calls[depth].append(backend.calls - calls)
            work.tokens[depth].append(found.tokens_evaluated)
    return work


class WarmScenario:
    """Single-shot `predict` on a loaded bundle: the window slides, so only the prompt's static part is reused."""

    def __init__(self, bundle: Path, diary: Diary, options: BenchOptions) -> None:
        self._predictor = open_for_bench(bundle, options)
        self._diary, self._options = diary, PredictOptions(scoring=options.scoring, source="model")
        # Not the first case: asked again, it would cost next to nothing.
        self._predict(CYCLE)

    def turn(self, i: int) -> Mapping[str, Sample]:
        """See `Scenario`."""
        return {"warm": self._predict(i)} if slot(i) == 0 else {}

    def close(self) -> None:
        """See `Scenario`."""
        self._predictor.close()

    def _predict(self, i: int) -> Sample:
        case = self._diary.case(i)
        started = perf_counter()
        prediction = self._predictor.predict(case.history, case.when, case.place, 1, options=self._options)
        return Sample((perf_counter() - started) * 1000, prediction.tokens_evaluated, prediction.decode_ms)


class PrefixScenario:
    """The prompt's static part, each time from an empty cache.

    `prefix_evaluate` runs the model on it, `prefix_restore` reads its snapshot file, checks the hash and loads it, and
    `prefix_load` is the engine's part of a restore: from bytes in memory.
    """

    def __init__(self, backend: Backend, model: str, static_ids: list[int]) -> None:
        self._backend, self._ids = backend, static_ids
        self._folder = tempfile.TemporaryDirectory(prefix="edgeb-bench-")
        self._cache = PrefixCache(Path(self._folder.name), model)
        self._cache.warm(backend, static_ids)
        self._state = backend.save_state()

    def turn(self, i: int) -> Mapping[str, Sample]:
        """See `Scenario`."""
        if slot(i) != 1:
            return {}
        return {
            "prefix_evaluate": Sample(self._time(lambda: self._backend.prefill(self._ids)), len(self._ids)),
            "prefix_restore": Sample(self._time(lambda: self._cache.warm(self._backend, self._ids)), 0),
            "prefix_load": Sample(self._time(lambda: self._backend.load_state(self._ids, self._state)), 0),
        }

    def close(self) -> None:
        """See `Scenario`."""
        self._backend.close()
        self._folder.cleanup()

    def _time(self, work: Callable[[], object]) -> float:
        """Milliseconds of `work` on a cache that holds nothing of the static part."""
        # A prompt that begins otherwise leaves nothing of the one before.
        self._backend.prefill([(self._ids[0] + 1) % self._backend.n_vocab])
        started = perf_counter()
        work()
        return (perf_counter() - started) * 1000
