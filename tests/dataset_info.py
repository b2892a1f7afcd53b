"""A `DatasetInfo` for tests that need no dataset folder."""

from __future__ import annotations

from typing import Any

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.data.info import (
    Checksums,
    DatasetInfo,
    EventsPerUser,
    LogFile,
    LogSource,
    PlaceInfo,
    RecordedOptions,
    RowCounts,
    Span,
    SplitCounts,
    UserCounts,
)


def dataset_info(candidates: CandidateSet, **changes: Any) -> DatasetInfo:
    """What a small import would have written, with some fields changed."""
    split = SplitCounts(8, 1234, 1000)
    fields: dict[str, Any] = {
        "schema_version": 1,
        "source": LogSource("log.csv", "csv", (LogFile("log.csv", "ab12", 9),)),
        "options": RecordedOptions(seed=0, min_events=21, merge_seconds=0),
        "rows": RowCounts(3702, {}),
        "users": UserCounts(24, 0, 24),
        "history_length": 20,
        "splits": {"train": split, "validation": split, "test": split},
        "span": Span("2024-03-01T06:00:00", "2024-04-01T06:00:00"),
        "events_per_user": EventsPerUser(*[154.25] * 8),
        "place": PlaceInfo(kind="column", count=2),
        "candidates": candidates,
        "content": Checksums({}, {}, {}, "", ""),
    }
    return DatasetInfo(**(fields | changes))
