"""The windows that every bundle of a table predicts: of a dataset's test users, of one history, or synthetic.

A window has one event more than a prompt, so that a session can be in the midst of it. Knows no engine and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_behavior.bench.diary import synthetic_diary
from edge_behavior.bench.engines.options import LEAST_WINDOWS, TableOptions
from edge_behavior.bench.options import HistoryFile
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.windows import natural_windows
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.protocols import check_dataset_fits


@dataclass(frozen=True)
class Window:
    """One prediction.

    Attributes:
        events: L + 1 events, oldest first; the last is what a session observes in this step.
        when: Time to predict for.
        place: Place to predict for; None where the bundle has no places.
        truth: Code of what happened; None where that is made up.
    """

    events: list[BehaviorEvent]
    when: datetime
    place: str | None
    truth: int | None = None

    @property
    def history(self) -> list[BehaviorEvent]:
        """The L events of a prompt."""
        return self.events[1:]

    @property
    def last_place(self) -> str | None:
        """The place that the step before predicts for; None where the bundle has no places."""
        return None if self.place is None else self.events[-1].place


def choose_windows(manifest: Manifest, options: TableOptions) -> list[Window]:
    """The windows that the options ask for; fewer where there are fewer.

    Raises:
        EdgebError: a dataset or history that does not fit the bundle, or too few windows in it.
    """
    if options.data is not None:
        found = _of_dataset(options.data, manifest, options.windows)
    elif options.history is not None:
        found = _of_history(options.history, manifest, options.windows)
    else:
        found = _synthetic(manifest, options.windows)
    if len(found) < LEAST_WINDOWS:
        where = options.data if options.data is not None else options.history and options.history.path
        length = manifest.layout.history_length
        raise EdgebError(
            f"{where} has {len(found)} windows of {length + 2} events", f"pass a log with {LEAST_WINDOWS} or more"
        )
    return found


def _of_dataset(data: Path, manifest: Manifest, count: int) -> list[Window]:
    """Windows of the test split, as they occur; a window is left out where the user has too few events."""
    dataset = Dataset.open(data)
    layout = manifest.layout
    check_dataset_fits(manifest.candidates, layout, dataset, "the bundle")
    table = dataset.events("test")
    length = layout.history_length + 1
    found = []
    for target in natural_windows(table, length, limit=count):
        event = table.event(int(target))
        place = event.place if layout.places else None
        events = list(table.history(int(target), length))
        found.append(Window(events, event.time, place, manifest.candidates.code(event.behavior)))
    return found


def _of_history(source: HistoryFile, manifest: Manifest, count: int) -> list[Window]:
    """The last windows of one user's log."""
    layout = manifest.layout
    events, _ = source.read(layout.places).known(manifest.candidates)
    return _consecutive(events, manifest)[-count:]


def _synthetic(manifest: Manifest, count: int) -> list[Window]:
    length, places = manifest.layout.history_length, manifest.layout.places
    events = synthetic_diary(manifest.candidates, length, count, places=places).events
    return [Window(w.events, w.when, w.place) for w in _consecutive(events, manifest)]


def _consecutive(events: list[BehaviorEvent], manifest: Manifest) -> list[Window]:
    """Every window of one user's events."""
    length, places = manifest.layout.history_length + 1, manifest.layout.places
    return [
        Window(
            events[end - length : end],
            events[end].time,
            events[end].place if places else None,
            manifest.candidates.code(events[end].behavior),
        )
        for end in range(length, len(events))
    ]
