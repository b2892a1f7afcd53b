"""What edgeb does for a prediction, as scenarios that can take turns with others.

A scenario is asked once per round and answers with what it timed, which may be nothing: expensive ones sit rounds
out. Taking turns lets any drift of the machine hit all of them alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Protocol

from edge_behavior.bench.diary import Diary
from edge_behavior.bench.native import Decode, watched_decodes
from edge_behavior.bench.timing import Sample
from edge_behavior.runtime.predictor import PredictOptions, Predictor, Session

# How much of the ranking has to be proven, per session scenario; they take turns, one per round.
DEPTHS: Mapping[str, int | None] = {"session": 1, "session_top5": 5, "session_full": None}
CYCLE = len(DEPTHS)


class Scenario(Protocol):
    """Something that is timed in turns."""

    def turn(self, i: int) -> Mapping[str, Sample]:
        """Round `i`: samples by scenario name, empty where this round is sat out."""

    def close(self) -> None:
        """Free native memory."""


def slot(i: int) -> int:
    """Which of the `CYCLE` kinds of rounds round `i` is.

    Every block of `CYCLE` rounds has one of each, in changing order: what comes back every so many events, like a
    session's anchoring, then hits all kinds alike.
    """
    return (i + i // CYCLE) % CYCLE


def depth_of(i: int) -> str:
    """The session scenario whose turn it is in round `i`."""
    return list(DEPTHS)[slot(i)]


class SessionScenario:
    """One session: each round observes an event and predicts at the next one's time and place, timed together.

    Args:
        anchor_every: See `Predictor.session`.
        top_one_only: `session` in every round.
    """

    def __init__(
        self,
        bundle: Path,
        threads: int,
        diary: Diary,
        scoring: str,
        anchor_every: int,
        top_one_only: bool = False,
    ) -> None:
        self._predictor = Predictor.load(bundle, threads=threads, verify=False, prefix_cache=False)
        self._diary, self._options = diary, PredictOptions(scoring=scoring, source="model")
        self._anchor_every, self._top_one_only = anchor_every, top_one_only
        self._session = self._start()

    def rehearse(self, rounds: int) -> list[list[Decode]]:
        """Run all rounds untimed, note what they have the engine evaluate, and start over."""
        seen = []
        for i in range(rounds):
            with watched_decodes() as decodes:
                self.turn(i)
            seen.append(decodes)
        self.restart()
        return seen

    def restart(self) -> None:
        """Begin again with the diary's first question."""
        self._session = self._start()

    def turn(self, i: int) -> Mapping[str, Sample]:
        """See `Scenario`."""
        question, depth = self._diary.question(i), "session" if self._top_one_only else depth_of(i)
        started = perf_counter()
        self._session.observe(question.observed)
        prediction = self._session.predict(question.when, question.place, DEPTHS[depth], options=self._options)
        ms = (perf_counter() - started) * 1000
        return {depth: Sample(ms, prediction.tokens_evaluated, prediction.decode_ms)}

    def close(self) -> None:
        """See `Scenario`."""
        self._predictor.close()

    def _start(self) -> Session:
        """A session that has seen a window of events and answered once."""
        session = self._predictor.session(self._anchor_every)
        for event in self._diary.opening:
            session.observe(event)
        last = self._diary.opening[-1]
        place = last.place if self._diary.places else None
        session.predict(last.time, place, 1, options=self._options)
        return session


class WarmScenario:
    """Single-shot `predict` on a loaded bundle: the window slides, so only the prompt's static part is reused."""

    def __init__(self, bundle: Path, threads: int, diary: Diary, scoring: str) -> None:
        self._predictor = Predictor.load(bundle, threads=threads, verify=False, prefix_cache=False)
        self._diary, self._options = diary, PredictOptions(scoring=scoring, source="model")
        # Not the first question: asked again, it would cost next to nothing.
        self._predict(CYCLE)

    def turn(self, i: int) -> Mapping[str, Sample]:
        """See `Scenario`."""
        return {"warm": self._predict(i)} if slot(i) == 0 else {}

    def close(self) -> None:
        """See `Scenario`."""
        self._predictor.close()

    def _predict(self, i: int) -> Sample:
        asked = self._diary.question(i)
        started = perf_counter()
        prediction = self._predictor.predict(asked.history, asked.when, asked.place, 1, options=self._options)
        return Sample((perf_counter() - started) * 1000, prediction.tokens_evaluated, prediction.decode_ms)
