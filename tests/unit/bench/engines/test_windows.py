"""What every bundle of a table is asked."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from edge_behavior.bench.engines.options import TableOptions
from edge_behavior.bench.engines.windows import choose_windows
from edge_behavior.bench.options import HistoryFile
from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.records.history import write_history
from tests import helpers

LENGTH = 6


def test_a_datasets_windows_know_what_happened(gguf: Path, dataset: Dataset) -> None:
    found = choose_windows(read_manifest(gguf), TableOptions(windows=9, data=dataset.path))
    assert len(found) == 9
    table = dataset.events("test")
    # Times and places of all events, to find each window's own.
    by_moment = {(e.time, e.place, e.behavior) for e in table.between(0, len(table))}
    for window in found:
        assert len(window.events) == LENGTH + 1
        assert window.history == window.events[1:]
        assert window.truth is not None
        assert (window.when, window.place, dataset.candidates.labels[window.truth]) in by_moment
        assert window.events[-1].time <= window.when


def test_a_historys_last_windows(gguf: Path, tmp_path: Path) -> None:
    events = helpers.diary(30)
    write_history(tmp_path / "h.csv", events)
    options = TableOptions(windows=7, history=HistoryFile(tmp_path / "h.csv"))
    found = choose_windows(read_manifest(gguf), options)
    assert [window.when for window in found] == [event.time for event in events[-7:]]
    candidates = read_manifest(gguf).candidates
    assert [candidates.labels[w.truth] for w in found if w.truth is not None] == [e.behavior for e in events[-7:]]
    write_history(tmp_path / "short.csv", events[: LENGTH + 3])
    with pytest.raises(EdgebError, match=r"short\.csv has 2 windows of 8 events"):
        choose_windows(read_manifest(gguf), TableOptions(history=HistoryFile(tmp_path / "short.csv")))


def test_made_up_windows_have_no_truth(gguf: Path) -> None:
    found = choose_windows(read_manifest(gguf), TableOptions(windows=8))
    assert len(found) == 8
    assert {window.truth for window in found} == {None}
    for before, after in pairwise(found):
        assert after.events[:-1] == before.events[1:]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"windows": 5}, "--windows is 5"),
        ({"budget": 1.0}, "--budget is 1"),
        ({"scoring": "fast"}, "unknown scoring"),
        ({"slow_windows": 0}, "--label-repeats is 0"),
        ({"data": Path("d"), "history": HistoryFile(Path("h"))}, "--data and --history"),
    ],
)
def test_bad_options(fields: dict[str, object], words: str) -> None:
    with pytest.raises(EdgebError, match=words):
        TableOptions(**fields)  # type: ignore[arg-type]
