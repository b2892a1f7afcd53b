"""What the page is sent, field for field: `dataclasses.asdict` of one of these is the JSON of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PrecisionLevel:
    """A precision that calibration looked for, and whether suggestions reach it at any threshold."""

    level: float
    reached: bool


@dataclass(frozen=True)
class Levels:
    """What may be asked of a source at a balance τ (`core.balance`); levels are empty without a calibration at it."""

    balance: float
    precisions: Sequence[PrecisionLevel]
    coverages: Sequence[float]


@dataclass(frozen=True)
class BundleView:
    """What never changes.

    Attributes:
        base_model: Its name; None where the bundle has none.
        license: Lines about its license, with the attribution that its terms ask for.
        history_length: L, events that the prompt holds.
        places: Whether events have places.
        sources: What may be asked of each source that the bundle can answer from: at balance 0, then at the fitted one
            where there is one.
        source: The default one.
        step_minutes: By how much the page's clock moves on after an event.
    """

    name: str
    labels: Sequence[str]
    architecture: str
    quantization: str
    base_model: str | None
    license: Sequence[str]
    history_length: int
    places: bool
    sources: Mapping[str, Sequence[Levels]]
    source: str
    step_minutes: int


@dataclass(frozen=True)
class EventView:
    """One event of the timeline: local time in ISO form, place (None without places), and where it comes from."""

    time: str
    place: str | None
    behavior: str
    origin: str


@dataclass(frozen=True)
class StateView:
    """The timeline, and where and when the user is now.

    Attributes:
        events: The latest ones, oldest first.
        earlier: How many before them are not listed.
        dismissed: Candidates dismissed since the last event.
        begun: How many events starting over goes back to.
        places: Places to choose from; empty where the bundle has none.
        now: Local time in ISO form.
        place: None where the bundle has no places.
    """

    events: Sequence[EventView]
    earlier: int
    dismissed: Sequence[str]
    begun: int
    places: Sequence[str]
    now: str
    place: str | None


@dataclass(frozen=True)
class CandidateView:
    """One ranked candidate."""

    behavior: str
    probability: float
    suggested: bool


@dataclass(frozen=True)
class PredictionView:
    """A prediction with its rule applied, and what it cost.

    Attributes:
        ranked: Most probable first, without what was dismissed.
        likely: The prediction set; None where no coverage was asked for.
        balance: τ by which rare behaviors were raised.
        unexpanded: Upper bound of the probability of all candidates that were not evaluated, together.
        window: Events that the session's prompt holds.
    """

    ranked: Sequence[CandidateView]
    likely: Sequence[str] | None
    source: str
    balance: float
    calibrated: bool
    unexpanded: float
    tokens_evaluated: int
    latency_ms: float
    decode_ms: float
    window: int


View = BundleView | StateView | PredictionView
