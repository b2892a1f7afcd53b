"""The predictions that are timed."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from edge_behavior.bench.diary import Case, diary_of, synthetic_diary
from edge_behavior.bench.options import HistoryFile
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.errors import EdgebError
from edge_behavior.records.history import write_history

CANDIDATES = CandidateSet.of(["Video", "Mail", "Rare"], [900, 99, 1])


def test_cases_follow_each_other_event_by_event() -> None:
    diary = synthetic_diary(CANDIDATES, length=5, cases=12)
    assert len(diary) == 12
    assert diary.first_window == diary.events[:5]
    seen = list(diary.first_window)
    for i in range(12):
        case = diary.case(i)
        seen.append(case.observed)
        assert case.history == seen[-5:]
        following = diary.events[len(seen)]
        assert (case.when, case.place) == (following.time, following.place)
        assert case.when >= case.observed.time


def test_synthetic_labels_are_as_frequent_as_in_training() -> None:
    labels = [event.behavior for event in synthetic_diary(CANDIDATES, 5, 2000).events]
    assert labels.count("Video") > 0.8 * len(labels)
    assert 0 < labels.count("Mail") < 0.2 * len(labels)
    assert synthetic_diary(CANDIDATES, 5, 50) == synthetic_diary(CANDIDATES, 5, 50)


def test_a_file_is_repeated_in_whole_weeks(tmp_path: Path) -> None:
    start = datetime(2024, 3, 1, 8, 30)
    events = [BehaviorEvent("home", start + timedelta(days=3 * i, hours=i), "Video") for i in range(4)]
    events[2] = BehaviorEvent("work", events[2].time, "Mail")
    write_history(tmp_path / "h.csv", events)
    diary = diary_of(HistoryFile(tmp_path / "h.csv"), CANDIDATES, length=3, cases=9)
    assert len(diary) == 9
    assert diary.events[:4] == events
    times = [event.time for event in diary.events]
    assert times == sorted(times)
    for event, again in zip(diary.events, diary.events[4:], strict=False):
        assert (again.place, again.behavior) == (event.place, event.behavior)
        assert (again.time - event.time) % timedelta(weeks=1) == timedelta()


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    write_history(path, [BehaviorEvent("home", datetime(2024, 3, 1), "Video")])
    with pytest.raises(EdgebError, match="1 event"):
        diary_of(HistoryFile(path), CANDIDATES, 3, 3)
    write_history(path, [BehaviorEvent("home", datetime(2024, 3, d), "Vidoe") for d in (1, 2)])
    with pytest.raises(EdgebError, match=r"no event's behavior is in the candidate set: 'Vidoe' \(line 2\)"):
        diary_of(HistoryFile(path), CANDIDATES, 3, 3)
    write_history(path, [BehaviorEvent("home", datetime(y, 3, 1), "Video") for y in (1990, 9000)])
    with pytest.raises(EdgebError, match="cannot be repeated"):
        diary_of(HistoryFile(path), CANDIDATES, 3, 30)


def test_a_case_survives_the_way_to_another_process() -> None:
    case = synthetic_diary(CANDIDATES, 4, 2).case(1)
    assert Case.from_dict(case.to_dict()) == case


def test_a_bundle_without_places_is_asked_for_none(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text("timestamp,behavior\n2024-05-01T18:00,Video\n2024-05-01T19:00,Video\n")
    for diary in (
        synthetic_diary(CandidateSet.of(["Video", "Bar"]), 4, 2, places=False),
        diary_of(HistoryFile(tmp_path / "h.csv"), CandidateSet.of(["Video", "Bar"]), 4, 2, places=False),
    ):
        case = diary.case(1)
        assert case.place is None
        assert Case.from_dict(case.to_dict()) == case
