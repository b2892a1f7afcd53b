"""The assistant behind the page: one user's events on a loaded bundle, dismissed suggestions, the next prediction.

Knows nothing of HTTP. All state is in memory and gone when the process ends.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.license import license_lines
from edge_behavior.demo.views import (
    BundleView,
    CandidateView,
    EventView,
    Levels,
    PrecisionLevel,
    PredictionView,
    StateView,
)
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.prediction import Prediction, PredictOptions, RankedBehavior
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.runtime.session import Session

# Suggestions on the phone.
SHOWN = 5
# Events that the page lists, and events that a day may have.
LISTED, MOST_EVENTS = 60, 20_000
# How far the clock moves on after an event.
STEP = timedelta(minutes=15)
# Offered where no history names any; a bundle does not know its users' places.
PLACES = ("home", "work", "transit", "leisure")
_SAMPLE_DAY = (
    (7, 5, "home"), (7, 30, "home"), (8, 15, "transit"), (9, 10, "work"), (12, 20, "work"), (12, 45, "work"),
    (15, 30, "work"), (18, 10, "transit"), (19, 15, "home"),
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One event of the timeline; `origin` is `history`, `added`, `accepted` or `made up`."""

    event: BehaviorEvent
    origin: str


@dataclass(frozen=True)
class Ask:
    """The context to predict for, and when to suggest.

    Attributes:
        when: Local time; may precede the last event by as much as a clock that is set back.
        place: Where the user is then; None for a bundle without places.
        threshold: Suggest candidates of at least this probability; not used together with `precision`.
        precision: Suggest the first candidate where such suggestions are right this often, see docs/integrate.md.
        coverage: Also give the prediction set: candidates among which the truth is this often.
        source: `model`, `habits` or `fused`; None takes the bundle's default.
        balance: τ by which rare behaviors are raised, see `core.balance`.
        exhaustive: Evaluate every candidate, so that probabilities are exact and not lower bounds.
    """

    when: datetime
    place: str | None
    threshold: float = 0.0
    precision: float | None = None
    coverage: float | None = None
    source: str | None = None
    balance: float = 0.0
    exhaustive: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise EdgebError(f"threshold is {self.threshold}", "give a probability from 0 to 1")


class Assistant:
    """One user on one bundle. May be used from several threads: calls take turns.

    Args:
        predictor: The loaded bundle; the caller closes it.
        name: What the page calls the bundle.
        history: Events to begin with, oldest first.

    Raises:
        EdgebError: an event of the history that is no candidate, or is earlier than a clock may go back.
    """

    def __init__(self, predictor: Predictor, name: str, history: Sequence[BehaviorEvent] = ()) -> None:
        self._predictor, self._name = predictor, name
        self._lock = threading.RLock()
        known = [predictor.manifest.candidates.named(e, f"history event {i}") for i, e in enumerate(history, 1)]
        self._begin = [Entry(event, "history") for event in known]
        _check_room(len(self._begin))
        self._entries: list[Entry] = []
        self._dismissed: list[str] = []
        self._session: Session = predictor.session()
        self.start_over()

    def bundle(self) -> BundleView:
        """What never changes: name, labels, and what may be asked of each source."""
        manifest = self._predictor.manifest
        return BundleView(
            self._name,
            manifest.candidates.labels,
            manifest.architecture,
            manifest.quantization,
            manifest.base_model.name,
            license_lines(manifest.base_model.license),
            manifest.layout.history_length,
            manifest.layout.places,
            {
                source: [_levels(manifest, source, tau) for tau in _balances(manifest, source)]
                for source in manifest.sources
            },
            manifest.default_source,
            STEP.seconds // 60,
        )

    def state(self) -> StateView:
        """The timeline, what was dismissed since its last event, and where and when the user is now."""
        with self._lock:
            shown = self._entries[-LISTED:]
            last = self._entries[-1].event if self._entries else None
            return StateView(
                [self._shown(entry) for entry in shown],
                len(self._entries) - len(shown),
                list(self._dismissed),
                len(self._begin),
                self._places(),
                _clock_after(last).isoformat(timespec="minutes"),
                self._shown_place(last.place if last else PLACES[0]),
            )

    def predict(self, ask: Ask) -> PredictionView:
        """Rank the candidates and mark those to suggest.

        Dismissed candidates are not shown but keep their probability: the user does not want the suggestion, which
        does not make the behavior less likely.

        Raises:
            EdgebError: a time too long before the last event, or something the bundle was not calibrated for.
        """
        with self._lock:
            hidden = set(self._dismissed)
            prediction = self._predict(ask, SHOWN + len(hidden), ask.exhaustive)
            tokens, latency, decode = prediction.tokens_evaluated, prediction.latency_ms, prediction.decode_ms
            if ask.precision is None and not _decided(prediction, ask.threshold):
                prediction = self._predict(ask, SHOWN + len(hidden), True)
                tokens += prediction.tokens_evaluated
                latency += prediction.latency_ms
                decode += prediction.decode_ms
            ranked = [(rank, r) for rank, r in enumerate(prediction.ranked) if r.behavior not in hidden][:SHOWN]
            return PredictionView(
                [CandidateView(r.behavior, r.probability, _suggested(rank, r, ask, prediction)) for rank, r in ranked],
                prediction.likely,
                prediction.source,
                prediction.balance,
                prediction.calibrated,
                prediction.unexpanded,
                tokens,
                latency,
                decode,
                len(self._session.events),
            )

    def add(self, behavior: str, place: str | None, when: datetime, accepted: bool) -> None:
        """Append an event; dismissed candidates may be suggested again.

        Raises:
            EdgebError: not a candidate, a place missing or given in vain, too long before the last event, or too many
                events; nothing is changed.
        """
        with self._lock:
            _check_room(len(self._entries) + 1)
            if not behavior.strip():
                raise EdgebError("no behavior was given", "choose one of the candidates")
            manifest = self._predictor.manifest
            event = manifest.candidates.named(BehaviorEvent(manifest.layout.place_of(place), when, behavior))
            self._session.observe(event)
            self._entries.append(Entry(event, "accepted" if accepted else "added"))
            self._dismissed.clear()

    def dismiss(self, behavior: str) -> None:
        """Leave a candidate out of the suggestions until the next event.

        Raises:
            EdgebError: not a candidate.
        """
        with self._lock:
            candidates = self._predictor.manifest.candidates
            label = candidates.labels[candidates.code(behavior)]
            if label not in self._dismissed:
                self._dismissed.append(label)

    def restore(self) -> None:
        """Forget all dismissals."""
        with self._lock:
            self._dismissed.clear()

    def undo(self) -> None:
        """Take the last event back.

        Raises:
            EdgebError: there is none.
        """
        with self._lock:
            if not self._entries:
                raise EdgebError("the day has no event to take back", "add one first")
            self._replay(self._entries[:-1])

    def start_over(self) -> None:
        """Back to the events the assistant began with."""
        with self._lock:
            self._replay(self._begin)

    def fill_sample_day(self, day: datetime) -> None:
        """Fill an empty timeline with synthetic events, drawn from the bundle's own predictions with a fixed seed.

        Raises:
            EdgebError: the timeline is not empty.
        """
        with self._lock:
            if self._entries:
                raise EdgebError("the day already has events", "start over first")
            rng = random.Random(0)
            for hour, minute, place in _SAMPLE_DAY:
                when = datetime.combine(day.date(), time(hour, minute))
                # Each at most twice: the same candidate all day long shows nothing.
                drawn = Counter(entry.event.behavior for entry in self._entries)
                top_k = min(2 * SHOWN, len(self._predictor.manifest.candidates))
                ranked = self._session.predict(when, self._shown_place(place), top_k=top_k).ranked
                ranked = tuple(r for r in ranked if drawn[r.behavior] < 2) or ranked
                label = rng.choices([r.behavior for r in ranked], [r.probability for r in ranked])[0]
                event = BehaviorEvent(place, when, label)
                self._session.observe(event)
                self._entries.append(Entry(event, "made up"))
            self._dismissed.clear()

    def _predict(self, ask: Ask, top_k: int, exhaustive: bool) -> Prediction:
        return self._session.predict(
            ask.when,
            ask.place,
            top_k=min(top_k, len(self._predictor.manifest.candidates)),
            options=PredictOptions(
                source=ask.source,
                exhaustive=exhaustive,
                precision=ask.precision,
                coverage=ask.coverage,
                balance=ask.balance,
            ),
        )

    def _replay(self, entries: list[Entry]) -> None:
        """Show a new session the events that are left; a session cannot forget."""
        session = self._predictor.session()
        for entry in entries:
            session.observe(entry.event)
        self._session, self._entries = session, list(entries)
        self._dismissed.clear()

    def _shown(self, entry: Entry) -> EventView:
        event = entry.event
        place = self._shown_place(event.place)
        return EventView(event.time.isoformat(timespec="seconds"), place, event.behavior, entry.origin)

    def _shown_place(self, place: str) -> str | None:
        """A place as the predictor and the page take it: None where the bundle has no places."""
        return place if self._predictor.manifest.layout.places else None

    def _places(self) -> list[str]:
        if not self._predictor.manifest.layout.places:
            return []
        begin = Counter(entry.event.place for entry in self._begin)
        known = [place for place, _ in begin.most_common(LISTED)] or list(PLACES)
        return list(dict.fromkeys([*known, *(entry.event.place for entry in self._entries[-LISTED:])]))


def _balances(manifest: Manifest, source: str) -> list[float]:
    """The balances that the page offers: none, and the one that export chose."""
    fitted = 0.0 if manifest.balance is None else manifest.balance.fitted[source]
    return [0.0, fitted] if fitted > 0 else [0.0]


def _levels(manifest: Manifest, source: str, balance: float) -> Levels:
    calibration = manifest.calibration_at(source, balance)
    if calibration is None:
        return Levels(balance, (), ())
    reached = [PrecisionLevel(level, least is not None) for level, least in calibration.precision.items()]
    return Levels(balance, reached, list(calibration.coverage))


def _clock_after(event: BehaviorEvent | None) -> datetime:
    """The page's current time: a step after the last event, or this machine's time."""
    if event is None:
        return datetime.now().replace(second=0, microsecond=0)
    return min(event.time, datetime.max - STEP) + STEP


def _check_room(count: int) -> None:
    if count > MOST_EVENTS:
        raise EdgebError(f"{count} events", f"the demo takes at most {MOST_EVENTS}; keep the latest")


def _decided(prediction: Prediction, threshold: float) -> bool:
    """Whether each candidate shown is on one side of the threshold for sure, given what was not evaluated."""
    seen = 1 - prediction.unexpanded
    return all(r.probability >= threshold or r.probability < threshold * seen for r in prediction.ranked)


def _suggested(rank: int, candidate: RankedBehavior, ask: Ask, prediction: Prediction) -> bool:
    if ask.precision is not None:
        return rank == 0 and bool(prediction.suggest)
    return candidate.probability >= ask.threshold
