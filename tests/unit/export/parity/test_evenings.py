"""Evenings to compare NPUs on: of the log, consecutive, growing event by event."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ImportOptions
from edge_behavior.data.simulator.simulator import simulate
from edge_behavior.export.parity.samples import draw_evenings
from edge_behavior.export.source import ExportSource
from tests import helpers


def source(labels: tuple[str, ...]) -> ExportSource:
    return ExportSource("base", None, CandidateSet.of(labels), PromptLayout())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evenings")
    simulate(40, 6, 1, folder / "log.csv")
    import_log(folder / "log.csv", "csv", folder / "data", ImportOptions(source_name="synth"))
    return folder / "data"


def test_evenings_grow_event_by_event() -> None:
    made = source(tuple(helpers.LABELS))
    one, more = draw_evenings(made, None), draw_evenings(made, 7)
    assert [len(window.history) for window in one.windows] == [16, 17, 18, 19, 20]
    assert (len(more), one.truth) == (7, None)
    for first, second in pairwise(one.windows):
        assert second.history[:-1] == first.history
        assert (second.history[-1].time, second.history[-1].place) == (first.when, first.place)
    assert [len(window.history) for window in more.windows] == [16, 17, 18, 19, 20, 16, 17]
    assert more.windows[5].history != more.windows[0].history
    assert draw_evenings(made, 7).windows == more.windows
    assert [len(window.history) for window in draw_evenings(made, 7, most=2).windows] == [0, 1, 2, 3, 4, 0, 1]


def test_evenings_of_the_log(data: Path) -> None:
    table = Dataset.open(data).events("validation")
    made = replace(source(table.candidates.labels), data=data)
    drawn = draw_evenings(made, 9)
    assert drawn.truth is not None
    assert len(drawn) == 9
    for window, code, user in zip(drawn.windows, drawn.truth, drawn.users, strict=True):
        span = slice(int(table.user_offsets[user]), int(table.user_offsets[user + 1]))
        events = table.between(span.start, span.stop)
        # The window is a stretch of the user's log, and its target is what came.
        at = next(i for i in range(len(events)) if tuple(events[i - len(window.history) : i]) == window.history)
        assert (events[at].time, events[at].place, events[at].behavior) == (
            window.when,
            window.place,
            drawn.labels[code],
        )
        assert 16 <= len(window.history) <= 20
    # The first evening is whole, and of one day.
    assert len({(window.when.date(), user) for window, user in zip(drawn.windows[:5], drawn.users, strict=False)}) == 1
