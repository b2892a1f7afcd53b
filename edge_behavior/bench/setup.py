"""From a bundle and options to scenarios by name, ready to take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from types import TracebackType

from edge_behavior.bench.diary import diary_of, synthetic_diary
from edge_behavior.bench.lower_bound import LowerBoundScenario, SpeedScenario
from edge_behavior.bench.options import CYCLE, BenchOptions
from edge_behavior.bench.peers import PEERS, CompletionPeer, LabelPeer, PeerOptions
from edge_behavior.bench.report import TITLES
from edge_behavior.bench.scenarios import PrefixScenario, Scenario, SessionScenario, Turns, WarmScenario
from edge_behavior.bundle.bundle import bundle_form, read_manifest
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.sequence import SequenceBackend
from edge_behavior.runtime.litert.tokenizer import open_tokenizer
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.runtime.predictor import open_backend
from edge_behavior.util.numbers import file_size
from edge_behavior.util.timebox import LEAST_CYCLES, Cycles, Pace

# Share of the time that the lower bound's rehearsal may take.
REHEARSAL_SHARE = 0.15
# Copies of the file that scenarios hold open, without and with --compare: what uses llama.cpp directly shares one.
_LOADS = {False: 3, True: 7}


class Setup:
    """Makes scenarios on one bundle. Use as a context manager: leaving it closes them all.

    Raises:
        EdgebError: not a bundle, or a history that does not fit it.
    """

    def __init__(self, bundle: Path, options: BenchOptions) -> None:
        self._bundle, self._options = bundle, options
        # Rounds there is time for.
        self.rounds = options.rounds
        self._native: LlamaModel | None = None
        self._slow = (Turns(1), 0.0)
        self.manifest = manifest = read_manifest(bundle)
        length, places = manifest.layout.history_length, manifest.layout.places
        if options.history is None:
            self.diary = synthetic_diary(manifest.candidates, length, options.rounds, places=places)
        else:
            self.diary = diary_of(options.history, manifest.candidates, length, options.rounds, places)
        with ExitStack() as stack:
            tokenizer = stack.enter_context(_open_tokenizer(bundle))
            self.encoder = PromptEncoder(
                tokenizer.tokenize, manifest.layout, manifest.candidates, manifest.bos_id, manifest.eos_id
            )
            self._stack = stack.pop_all()

    def __enter__(self) -> Setup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def check_memory(self) -> None:
        """Refuse a measurement that would swap.

        Raises:
            EdgebError: the scenarios together do not fit into free memory.
        """
        import psutil

        needed = _LOADS[self._options.compare] * self._bundle.stat().st_size
        free = psutil.virtual_memory().available
        if needed > free:
            raise EdgebError(
                f"measuring side by side needs {file_size(needed)} of memory, {file_size(free)} are free",
                "leave out --compare, or close other programs",
            )

    def all(self, pace: Pace) -> list[Scenario]:
        """Everything the options ask for and there is time for, in the order of turns; sets `rounds` and `slow`."""
        session = self.session()
        ours: list[Scenario] = [session, self.scenario("warm")]
        # A sequence model has no static prompt to speak of.
        if bundle_form(self._bundle) != "sequence":
            ours.append(self.prefix())
        if not self._options.compare:
            return ours
        bound = self.lower_bound(session, pace)
        for name in PEERS:
            peer = self._peer(name, pace)
            if peer is not None:
                ours.append(peer)
        speed = self.speed()
        if pace.affordable(speed.seconds, 1):
            return [*ours, bound, speed]
        pace.cut(f"pp and tg: a run takes about {speed.seconds:.0f} s")
        return [*ours, bound]

    def slow(self, cycle: int) -> float:
        """Estimate of the seconds that label by label scoring takes in a cycle of rounds."""
        turns, seconds = self._slow
        return seconds if cycle % turns.every == 0 else 0.0

    def _peer(self, name: str, pace: Pace) -> Scenario | None:
        """A peer, unless its predictions take too long."""
        wanted = self._options.label_repeats if name == "labels" else LEAST_CYCLES
        peer = self._made(name, wanted)
        number = pace.affordable(peer.seconds, wanted)
        if not number or (name != "labels" and number < wanted):
            pace.cut(f"{TITLES[name]}: a prediction takes about {peer.seconds:.0f} s")
            return None
        if name == "labels":
            if number < wanted:
                pace.cut(f"{TITLES[name]}: {number} of {wanted} predictions, each about {peer.seconds:.0f} s")
                peer = self._made(name, number)
            self._slow = (self._slow_turns(number), peer.seconds)
        return peer

    def _slow_turns(self, repeats: int) -> Turns:
        return Turns(1, max(1, self.rounds // CYCLE // repeats))

    def scenario(self, name: str) -> Scenario:
        """One scenario: `session`, `warm` or one of PEERS.

        Raises:
            EdgebError: the file does not load, or a prompt does not fit the model.
        """
        if name == "session":
            return self.session()
        if name in PEERS:
            return self._made(name, self._options.label_repeats)
        made = WarmScenario(self._bundle, self.diary, self._options)
        self._stack.callback(made.close)
        return made

    def _made(self, name: str, label_repeats: int) -> CompletionPeer | LabelPeer:
        threads = self._options.threads
        slow = self._slow_turns(label_repeats)
        makers: dict[str, Callable[[], CompletionPeer | LabelPeer]] = {
            "completion": lambda: self._completion(name, self.windows(), PeerOptions(threads, Turns(0))),
            "completion_cached": lambda: self._completion(name, self.windows(), PeerOptions(threads, Turns(1), True)),
            "completion_appended": lambda: self._completion(
                name, self.grown(), PeerOptions(threads, Turns(0), cached=True, follow=True)
            ),
            "labels": lambda: self._labels(name, PeerOptions(threads, slow)),
            "labels_cached": lambda: self._labels(name, PeerOptions(threads, Turns(2), cached=True)),
        }
        made = makers[name]()
        self._stack.callback(made.close)
        return made

    def session(self, top_one_only: bool = False) -> SessionScenario:
        """The session scenarios in turn, or `session` alone."""
        made = SessionScenario(self._bundle, self.diary, self._options, top_one_only)
        self._stack.callback(made.close)
        return made

    def prefix(self) -> Scenario:
        """Evaluating and restoring the static prompt."""
        ids = self.encoder.static_ids
        # A few more than the prefix, as a session has; the snapshot holds used cells only.
        n_ctx, options = -(-(len(ids) + 64) // 256) * 256, self._options
        backend = open_backend(self._bundle, n_ctx, options.threads, accelerator=options.accelerator)
        made = PrefixScenario(backend, self.manifest.tensors_sha256, ids)
        self._stack.callback(made.close)
        return made

    def lower_bound(self, session: SessionScenario, pace: Pace) -> Scenario:
        """The lower bound of the session scenarios, which are rehearsed to see what they evaluate.

        Rounds are limited to those that are rehearsed in a part of the time.
        """
        reserved = (1 - REHEARSAL_SHARE) * pace.budget.left
        rounds = session.rehearse(self.rounds, Cycles(pace, reserved).go_on)
        self.rounds = len(rounds)
        made = LowerBoundScenario(self._model(), self._options.threads, rounds, self.windows()[0])
        self._stack.callback(made.close)
        return made

    def speed(self) -> SpeedScenario:
        """llama.cpp's pp and tg."""
        made = SpeedScenario(self._model(), self._options)
        self._stack.callback(made.close)
        return made

    def _completion(self, name: str, prompts: Sequence[list[int]], options: PeerOptions) -> CompletionPeer:
        return CompletionPeer(self._bundle, name, prompts, self.encoder, options)

    def _labels(self, name: str, options: PeerOptions) -> LabelPeer:
        return LabelPeer(self._model(), name, self.windows(), self.encoder, options)

    def _model(self) -> LlamaModel:
        """The one open model of everything that uses llama.cpp directly."""
        if self._native is None:
            self._native = self._stack.enter_context(LlamaModel(self._bundle))
        return self._native

    def windows(self) -> Sequence[list[int]]:
        """Per round the prompt of `Predictor.predict`, as token ids: the last L events, then time and place."""
        cases = (self.diary.case(i) for i in range(self._options.rounds))
        return [self.encoder.prompt_ids(case.history, case.when, case.place) for case in cases]

    def grown(self) -> Sequence[list[int]]:
        """Per round the session's prompt, as token ids: it grows by an event until the window is re-based."""
        found = []
        length = count = self.diary.length
        for i in range(self._options.rounds):
            count = count + 1 if count < length + self._options.anchor_every else length
            end = length + i + 1
            case = self.diary.case(i)
            before, after = self.encoder.frame_ids(case.when, case.place)
            lines = [token for e in self.diary.events[end - count : end] for token in self.encoder.line_ids(e)]
            found.append(self.encoder.static_ids + before + lines + after)
        return found


def _open_tokenizer(bundle: Path) -> AbstractContextManager[LlamaModel | SequenceBackend]:
    """What makes tokens of a bundle's texts."""
    form = bundle_form(bundle)
    if form == "sequence":
        return closing(SequenceBackend(bundle))
    return open_tokenizer(bundle) if form == "litert" else LlamaModel(bundle, vocab_only=True)
