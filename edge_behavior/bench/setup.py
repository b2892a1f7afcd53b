"""From a bundle and options to scenarios by name, ready to take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from edge_behavior.bench.diary import from_file, made_up
from edge_behavior.bench.lower_bound import FloorScenario, SpeedScenario
from edge_behavior.bench.native import NativeModel
from edge_behavior.bench.peers import CompletionPeer, LabelPeer
from edge_behavior.bench.prefix import PrefixScenario
from edge_behavior.bench.scenarios import CYCLE, Scenario, SessionScenario, WarmScenario
from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.scoring import check_scoring
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.llama import LlamaBackend, LlamaOptions
from edge_behavior.runtime.session import REBASE_EVERY
from edge_behavior.util.cpus import chosen_threads

PEERS = ("completion", "completion_cached", "completion_appended", "labels", "labels_cached")
# Each opens the file for itself; those of one line share it: labels, labels_cached, floor, speed.
_LOADS = {False: 3, True: 7}

_LEAST = {"repeats": 2} | dict.fromkeys(
    ("anchor_every", "label_repeats", "speed_repeats", "cold_starts", "pp", "tg"), 1
)


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        repeats: Predictions per scenario.
        threads: CPU threads.
        scoring: `exact` or `masked`, of edgeb's own scenarios.
        anchor_every: Events by which a session's window may grow beyond L.
        compare: Measure the peers, the floor and pp/tg, too.
        label_repeats: Predictions of `labels`, which is slow.
        speed_repeats: Runs of pp and tg.
        cold_starts: Processes started per cold scenario.
        pp: Prompt tokens of pp.
        tg: Generated tokens of tg.
        history: Events to ask about; None makes some up.
    """

    repeats: int = 30
    threads: int = 1
    scoring: str = "exact"
    anchor_every: int = REBASE_EVERY
    compare: bool = False
    label_repeats: int = 3
    speed_repeats: int = 5
    cold_starts: int = 3
    pp: int = 512
    tg: int = 128
    history: Path | None = None

    def __post_init__(self) -> None:
        check_scoring(self.scoring)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise EdgebError(f"--{name.replace('_', '-')} is {value}", f"use {least} or more")
        chosen_threads(self.threads, 1, "--threads")

    @property
    def rounds(self) -> int:
        """Rounds in which scenarios take turns; one in `CYCLE` is a given scenario's own."""
        return CYCLE * self.repeats

    def every(self, wanted: int) -> int:
        """Of a scenario's own rounds, every n-th, so that about `wanted` of them are timed."""
        return max(1, self.repeats // wanted)


class Setup:
    """Makes scenarios on one bundle. Use as a context manager: leaving it closes them all.

    Raises:
        EdgebError: not a bundle, or a history that does not fit it.
    """

    def __init__(self, bundle: Path, options: BenchOptions) -> None:
        self._bundle, self._options = bundle, options
        self._native: NativeModel | None = None
        self.manifest = manifest = read_manifest(bundle)
        length, places = manifest.layout.history_length, manifest.layout.places
        if options.history is None:
            self.diary = made_up(manifest.candidates, length, options.rounds, places=places)
        else:
            self.diary = from_file(options.history, manifest.candidates, length, options.rounds, places)
        with ExitStack() as stack:
            tokenizer = stack.enter_context(NativeModel(bundle, vocab_only=True))
            self.encoder = PromptEncoder(
                tokenizer.tokenize, manifest.layout, manifest.candidates, manifest.bos_id, manifest.eos_id
            )
            self._stack = stack.pop_all()

    def __enter__(self) -> Setup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def check_memory(self) -> None:
        """Refuse to swap the machine to death.

        Raises:
            EdgebError: the scenarios together hardly fit into memory.
        """
        import psutil

        needed = _LOADS[self._options.compare] * self._bundle.stat().st_size
        free = psutil.virtual_memory().available
        if needed > free:
            raise EdgebError(
                f"measuring side by side needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free",
                "leave out --compare, or close other programs",
            )

    def all(self) -> list[Scenario]:
        """Everything the options ask for, in the order of turns."""
        session = self.session()
        ours = [session, self.scenario("warm"), self.prefix()]
        if not self._options.compare:
            return ours
        return [*ours, *(self.scenario(name) for name in PEERS), self.floor(session), self.speed()]

    def scenario(self, name: str) -> Scenario:
        """One scenario: `session`, `warm` or a peer.

        Raises:
            EdgebError: the file does not load, or a prompt does not fit the model.
        """
        options, bundle, threads = self._options, self._bundle, self._options.threads
        makers: dict[str, Callable[[], Scenario]] = {
            "session": self.session,
            "warm": lambda: WarmScenario(bundle, threads, self.diary, options.scoring),
            "completion": lambda: CompletionPeer(
                bundle, threads, name, self.windows(), self.encoder, reuse=False, due=0
            ),
            "completion_cached": lambda: CompletionPeer(
                bundle, threads, name, self.windows(), self.encoder, reuse=True, due=1
            ),
            "completion_appended": lambda: CompletionPeer(
                bundle, threads, name, self.grown(), self.encoder, reuse=True, due=0, follow=True
            ),
            "labels": lambda: LabelPeer(
                self._model(), threads, name, self.windows(), self.encoder,
                cached=False, due=1, every=options.every(options.label_repeats),
            ),
            "labels_cached": lambda: LabelPeer(
                self._model(), threads, name, self.windows(), self.encoder, cached=True, due=2
            ),
        }  # fmt: skip
        made = makers[name]()
        if name != "session":
            self._stack.callback(made.close)
        return made

    def session(self, top_one_only: bool = False) -> SessionScenario:
        """The session scenarios in turn, or `session` alone."""
        options = self._options
        made = SessionScenario(
            self._bundle, options.threads, self.diary, options.scoring, options.anchor_every, top_one_only
        )
        self._stack.callback(made.close)
        return made

    def prefix(self) -> Scenario:
        """Evaluating and restoring the static prompt."""
        ids = self.encoder.static_ids
        # A few more than the prefix, as a session has; the snapshot holds used cells only.
        options = LlamaOptions(n_ctx=-(-(len(ids) + 64) // 256) * 256, threads=self._options.threads)
        made = PrefixScenario(LlamaBackend(self._bundle, options), self.manifest.tensors_sha256, ids)
        self._stack.callback(made.close)
        return made

    def floor(self, session: SessionScenario) -> Scenario:
        """What lies under the session scenarios, which are rehearsed to see what they evaluate."""
        rounds = session.rehearse(self._options.rounds)
        made = FloorScenario(self._model(), self._options.threads, rounds, self.windows()[0])
        self._stack.callback(made.close)
        return made

    def speed(self) -> Scenario:
        """llama.cpp's pp and tg."""
        options = self._options
        made = SpeedScenario(
            self._model(), options.threads, options.pp, options.tg, due=0, every=options.every(options.speed_repeats)
        )
        self._stack.callback(made.close)
        return made

    def _model(self) -> NativeModel:
        """The one open model of everything that uses llama.cpp directly."""
        if self._native is None:
            self._native = self._stack.enter_context(NativeModel(self._bundle))
        return self._native

    def windows(self) -> Sequence[list[int]]:
        """Per round the prompt of `Predictor.predict`: the last L events, then the question."""
        questions = (self.diary.question(i) for i in range(self._options.rounds))
        return [self.encoder.prompt_ids(q.history, q.when, q.place) for q in questions]

    def grown(self) -> Sequence[list[int]]:
        """Per round the session's prompt: it grows by an event, and starts anew when it is long."""
        found = []
        length = count = self.diary.length
        for i in range(self._options.rounds):
            count = count + 1 if count < length + self._options.anchor_every else length
            end = length + i + 1
            question = self.diary.question(i)
            before, after = self.encoder.frame_ids(question.when, question.place)
            lines = [token for e in self.diary.events[end - count : end] for token in self.encoder.line_ids(e)]
            found.append(self.encoder.static_ids + before + lines + after)
        return found
