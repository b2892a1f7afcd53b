"""Windows to compare models on: those of held-out users, or synthetic ones where there is no dataset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import UNKNOWN_PLACE, BehaviorEvent
from edge_behavior.export.profiles import ParitySettings
from edge_behavior.export.source import ExportSource
from edge_behavior.export.synthetic_events import synthetic_events, synthetic_windows

# Natural windows and windows per behavior where the profile does not say: up to this many weights, and beyond.
SMALL_BACKBONE = 100_000_000
WINDOWS, PER_BEHAVIOR = (200, 60), (5, 1)
# Windows on which the steps before the last are compared: all of them, and so many beyond that number of weights.
BETWEEN = (None, 4)
# Fewest windows that a time budget leaves.
LEAST_WINDOWS = 48
# Windows of one user's evening.
EVENING = 5
# The order of windows: any first few are a sample of all.
_ORDER_SEED = 0
_MAX_SYNTHETIC = 60

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SampleSizes:
    """How many windows to draw.

    Attributes:
        natural: Windows in the frequencies of the log.
        per_behavior: Windows of each behavior in addition.
        between: Windows on which the steps before the last are compared; None for all.
    """

    natural: int
    per_behavior: int
    between: int | None = None

    @classmethod
    def of(cls, settings: ParitySettings, parameters: int) -> SampleSizes:
        """What the profile says, else by the backbone's number of weights."""
        large = int(parameters > SMALL_BACKBONE)
        return cls(
            WINDOWS[large] if settings.windows is None else settings.windows,
            PER_BEHAVIOR[large] if settings.per_behavior is None else settings.per_behavior,
            BETWEEN[large],
        )


@dataclass(frozen=True)
class Window:
    """A history and the context to predict in, in one of the layout's wordings."""

    history: tuple[BehaviorEvent, ...]
    when: datetime
    place: str
    wording: int = 0


@dataclass(frozen=True)
class Samples:
    """Windows to compare models on, in an order in which any first few are a sample of all.

    Attributes:
        windows: n of them.
        truth: [n] candidate codes of what happened; None for synthetic windows.
        users: [n] user codes.
        natural: [n] whether the window is one of the natural ones.
        balanced: [n] whether it was drawn for its behavior.
        labels: [B].
        groups: [B] head, medium or tail.
    """

    windows: tuple[Window, ...]
    truth: Ints | None
    users: Ints
    natural: NDArray[np.bool_]
    balanced: NDArray[np.bool_]
    labels: tuple[str, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.windows)

    def take(self, chosen: NDArray[np.bool_]) -> Samples:
        """Some of the windows."""
        return replace(
            self,
            windows=tuple(window for window, kept in zip(self.windows, chosen, strict=True) if kept),
            truth=None if self.truth is None else self.truth[chosen],
            users=self.users[chosen],
            natural=self.natural[chosen],
            balanced=self.balanced[chosen],
        )

    def prompts(self, encoder: PromptEncoder) -> list[list[int]]:
        """Token ids of every prompt."""
        return [encoder.prompt_ids(w.history, w.when, w.place, w.wording) for w in self.windows]


def draw_evenings(source: ExportSource, count: int | None, seed: int = 0, most: int | None = None) -> Samples:
    """Windows as a session sees them: evenings of the dataset's validation users, or synthetic ones.

    Within an evening every history is the one before and its event, so that most of the prompt is in the cache. None
    has more events than the layout's L.

    Args:
        source: What is exported.
        count: How many windows; None for one evening.
        seed: Of the choice.
        most: Events before an evening's last window at most; None for the layout's L.
    """
    candidates, length = source.candidates, source.layout.history_length
    steps = min(EVENING, length)
    before = max(0, (length if most is None else most) - steps + 1)
    count = steps if count is None else count
    found: list[tuple[list[BehaviorEvent], int, int]] = []
    if source.data is not None:
        from edge_behavior.data.dataset import Dataset
        from edge_behavior.data.windows import evenings

        table = Dataset.open(source.data).events("validation")
        for targets in evenings(table, length, steps, count, seed):
            start = int(targets[0]) - before
            events = table.between(start, int(targets[-1]) + 1)
            found.append((events, len(targets), int(table.user_of(targets[:1])[0])))
    synthetic = not found
    if synthetic:
        rng = np.random.default_rng(seed)
        places = source.places or (UNKNOWN_PLACE,)
        for user, left in enumerate(range(count, 0, -steps)):
            asked = min(left, steps)
            events = synthetic_events(candidates.labels, places, before + asked, rng)
            found.append((events, asked, user))
    windows, users, codes = list[Window](), list[int](), list[int]()
    for events, asked, user in found:
        for i in range(len(events) - asked, len(events)):
            windows.append(Window(tuple(events[:i]), events[i].time, events[i].place))
            codes.append(candidates.code(events[i].behavior))
            users.append(user)
    truth = None if synthetic else np.array(codes, dtype=np.int64)
    yes = np.ones(len(windows), dtype=bool)
    return Samples(tuple(windows), truth, np.array(users), yes, ~yes, candidates.labels, candidates.groups())


def draw_samples(source: ExportSource, sizes: SampleSizes, split: str = "validation", seed: int = 0) -> Samples:
    """Windows of the dataset's users, or synthetic ones if there is no dataset or it holds no full history."""
    candidates, layout = source.candidates, source.layout
    if source.data is not None:
        # Here, since an export without a dataset needs no pyarrow.
        from edge_behavior.data.dataset import Dataset
        from edge_behavior.data.windows import balanced_windows, natural_windows

        table, length = Dataset.open(source.data).events(split), layout.history_length
        natural = natural_windows(table, length, limit=sizes.natural, seed=seed)
        balanced = balanced_windows(table, sizes.per_behavior, length, seed=seed)
        targets = np.random.default_rng(_ORDER_SEED).permutation(np.union1d(natural, balanced))
        if len(targets):
            events = [table.event(int(i)) for i in targets]
            histories = [tuple(table.history(int(i), length)) for i in targets]
            return Samples(
                tuple(
                    Window(h, e.time, e.place, i % layout.formats)
                    for i, (h, e) in enumerate(zip(histories, events, strict=True))
                ),
                table.behavior[targets].astype(np.int64),
                table.user_of(targets),
                np.isin(targets, natural),
                np.isin(targets, balanced),
                candidates.labels,
                candidates.groups(),
            )
    count = min(sizes.natural, _MAX_SYNTHETIC)
    drawn = synthetic_windows(candidates, layout, source.places or (UNKNOWN_PLACE,), count, seed)
    windows = tuple(Window(*window, i % layout.formats) for i, window in enumerate(drawn))
    no, yes = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
    return Samples(windows, None, np.arange(count), yes, no, candidates.labels, candidates.groups())
