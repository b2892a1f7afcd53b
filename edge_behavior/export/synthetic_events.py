"""Synthetic windows, for comparing models where there is no dataset; the same for the same seed.

Labels are uniform and histories of every length, so that rare labels and short prompts are compared too. (The diary of
`bench` is another generator: one user's consecutive events in training frequencies, since these decide what a
prediction costs.)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout

HISTORY_LENGTHS = (0, 1, 2, 5, 10, 20)


def synthetic_events(
    labels: Sequence[str], places: Sequence[str], count: int, rng: np.random.Generator
) -> list[BehaviorEvent]:
    """`count` events within a week, oldest first; labels and places are uniform."""
    start = datetime(2024, 1, 1)
    hours = np.sort(rng.integers(0, 7 * 24, count))
    return [
        BehaviorEvent(
            places[int(rng.integers(len(places)))],
            start + timedelta(hours=int(hour)),
            labels[int(rng.integers(len(labels)))],
        )
        for hour in hours
    ]


def synthetic_windows(
    candidates: CandidateSet, layout: PromptLayout, places: Sequence[str], count: int, seed: int = 0
) -> list[tuple[tuple[BehaviorEvent, ...], datetime, str]]:
    """`count` windows with short and long histories: (history, time, place)."""
    rng = np.random.default_rng(seed)
    windows = []
    for i in range(count):
        length = min(HISTORY_LENGTHS[i % len(HISTORY_LENGTHS)], layout.history_length)
        *history, following = synthetic_events(candidates.labels, places, length + 1, rng)
        windows.append((tuple(history), following.time, following.place))
    return windows
