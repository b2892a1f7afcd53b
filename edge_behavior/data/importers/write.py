"""From the loaded log in DuckDB to the Parquet files of a dataset.

Drops duplicates and repeats, skips users with too few events, splits by users or by time, and streams the sorted events
to Parquet. Every dropped row is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.data.dataset import EVENT_SCHEMA, HISTORY_LENGTH, SPLITS, digest_texts, event_file
from edge_behavior.data.duck import Database
from edge_behavior.data.importers.coding import code_texts
from edge_behavior.data.importers.loaded_log import LoadedLog
from edge_behavior.data.importers.split import SplitBounds, split_time, split_users
from edge_behavior.data.importers.warnings import warn, without_hours
from edge_behavior.data.info import (
    SCHEMA_VERSION,
    Checksums,
    DatasetInfo,
    EventsPerUser,
    LogSource,
    RecordedOptions,
    RowCounts,
    Span,
    UserCounts,
)
from edge_behavior.errors import EdgebError

_QUANTILES = {"min": 0.0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1.0}


@dataclass(frozen=True)
class _KeptUsers:
    """Users with enough events, sorted by name; all fields have one entry per user.

    Attributes:
        codes: Their codes in `events`.
        groups: Their groups; None each where users are not grouped.
        counts: int64, events.
    """

    codes: list[int]
    names: list[str]
    groups: list[Any]
    counts: NDArray[np.int64]


def write_dataset(
    database: Database,
    log: LoadedLog,
    source: LogSource,
    options: RecordedOptions,
    out: Path,
    step: Callable[[str], None],
) -> DatasetInfo:
    """Write the Parquet files for the table `log` into the existing folder `out`.

    Args:
        step: Called with a few words when a stage of the work begins.

    Returns:
        The content of dataset.json, which is left to write.

    Raises:
        EdgebError: bad labels, or too few users to split.
    """
    dropped: dict[str, int] = {}
    rows = database.query_int("SELECT count(*) FROM log")
    step("cleaning labels and places")
    coded = code_texts(database, log, options.missing)
    step("dropping duplicates")
    kept_rows = database.query_int("SELECT count(*) FROM coded")
    if options.missing == "drop":
        dropped["missing"] = coded.missing_behaviors
    if log.label_name is not None:
        dropped[log.no_label] = rows - kept_rows - coded.missing_behaviors
    database.execute("DROP TABLE log")
    database.execute(
        "CREATE TABLE events AS SELECT user, time, place, behavior, min(position) AS position FROM coded GROUP BY ALL"
    )
    database.execute("DROP TABLE coded")
    dropped["duplicate"], kept_rows = _lost(database, kept_rows)
    if options.merge_seconds:
        _merge_repeats(database, options.merge_seconds)
        dropped["repeat"], kept_rows = _lost(database, kept_rows)

    step(f"splitting by {options.split}")
    users = _kept_users(database, options.min_events)
    bounds = _split(database, log, users, options, dropped["duplicate"])
    dropped["short_user"] = kept_rows - int(users.counts.sum())
    total_users = database.query_int("SELECT count(*) FROM users")
    database.create_table("kept", {"code": pa.array(users.codes, pa.int64()), "training": pa.array(bounds.ends(0))})
    database.execute("DELETE FROM events WHERE user NOT IN (SELECT code FROM kept)")

    candidates, label_number = _candidates(database, coded.labels, options.split, str(log.files[0]))
    placed = log.place.kind != "none"
    warnings = warn(database, dropped["duplicate"], placed, coded.cut_places)
    step("sorting and writing")
    place_names, place_counts, place_number = _rank_places(database, coded.places)
    checksums = _write_events(
        database, out, _positions_of(users.codes, total_users), bounds, label_number, place_number
    )
    if not placed:
        # Every event has the same empty place text, which is not the name of a place.
        place_names, place_counts = [], []
    _write_users(out, users, bounds, log.grouped)
    _write_places(out, place_names, place_counts)
    start, end = database.query_row("SELECT min(time), max(time) FROM events")
    return DatasetInfo(
        # Older versions of edgeb can read a dataset that needs nothing of version 2.
        schema_version=SCHEMA_VERSION if options.split != "users" or log.grouped or not placed else 1,
        source=source,
        options=options,
        rows=RowCounts(rows, dropped),
        users=UserCounts(
            total_users,
            total_users - len(users.names),
            len(users.names),
            len(set(users.groups)) if log.grouped else None,
        ),
        history_length=HISTORY_LENGTH,
        splits={split: bounds.sizes(i, HISTORY_LENGTH) for i, split in enumerate(SPLITS)},
        span=Span(start.isoformat(timespec="seconds"), end.isoformat(timespec="seconds")),
        events_per_user=EventsPerUser(
            **{name: float(np.quantile(users.counts, q)) for name, q in _QUANTILES.items()},
            mean=float(users.counts.mean()),
        ),
        place=replace(log.place, count=len(place_names), missing=coded.missing_places if placed else None),
        candidates=candidates,
        content=Checksums(
            **checksums,
            users=digest_texts(users.names),
            places=digest_texts(place_names),
            groups=digest_texts(users.groups) if log.grouped else None,
        ),
        warnings=tuple(warnings),
    )


def _lost(database: Database, before: int) -> tuple[int, int]:
    after = database.query_int("SELECT count(*) FROM events")
    return before - after, after


def _kept_users(database: Database, min_events: int) -> _KeptUsers:
    users = database.query(
        "SELECT code, text, n, text_group FROM users JOIN (SELECT user, count(*) AS n FROM events GROUP BY user) "
        f"ON code = user WHERE n >= {min_events} ORDER BY text"
    )
    counts = np.array([n for _, _, n, _ in users], dtype=np.int64)
    return _KeptUsers([user[0] for user in users], [user[1] for user in users], [user[3] for user in users], counts)


def _split(
    database: Database, log: LoadedLog, users: _KeptUsers, options: RecordedOptions, duplicates: int
) -> SplitBounds:
    name = str(log.files[0])
    try:
        if options.split == "time":
            return split_time(users.counts, name, options.min_events)
        groups = users.groups if log.grouped else users.names
        return split_users(users.counts, groups, options.seed, name, options.min_events)
    except EdgebError as error:
        notes = [f"{duplicates:,} rows were exact duplicates"] if duplicates else []
        notes += ["no time has an hour"] if without_hours(database) else []
        raise EdgebError("; ".join([error.message, *notes]), error.hint) from None


def _write_users(out: Path, users: _KeptUsers, bounds: SplitBounds, grouped: bool) -> None:
    columns = {
        "user": pa.array(range(len(users.names)), pa.int32()),
        "user_id": pa.array(users.names, pa.string()),
        "split": pa.array(bounds.names(), pa.string()),
        "events": pa.array(users.counts),
    }
    if grouped:
        columns["group"] = pa.array(users.groups, pa.string())
    pq.write_table(pa.table(columns), out / "users.parquet")


def _write_places(out: Path, names: Sequence[str], counts: Sequence[int]) -> None:
    columns = {
        "place": pa.array(range(len(names)), pa.int32()),
        "name": pa.array(names, pa.string()),
        "events": pa.array(counts, pa.int64()),
    }
    pq.write_table(pa.table(columns), out / "places.parquet")


def _merge_repeats(database: Database, seconds: int) -> None:
    database.execute(
        "CREATE TABLE merged AS SELECT user, time, place, behavior, position FROM events "
        "WINDOW w AS (PARTITION BY user ORDER BY time, position) "
        "QUALIFY NOT coalesce(lag(behavior) OVER w = behavior AND lag(place) OVER w = place "
        f"AND time - lag(time) OVER w <= to_seconds({seconds}), false)"
    )
    database.execute("DROP TABLE events")
    database.execute("ALTER TABLE merged RENAME TO events")


def _candidates(database: Database, labels: list[str], split: str, name: str) -> tuple[CandidateSet, NDArray[np.int16]]:
    """The candidate set of the kept events, and the candidate of each label code."""
    training, present = np.zeros(len(labels), np.int64), np.zeros(len(labels), bool)
    # Numbering sorts the events, which a split by users does not need.
    numbered = "row_number() OVER (PARTITION BY user ORDER BY time, position)" if split == "time" else "1"
    for batch in database.batches(
        "SELECT behavior, count(*) AS n, count(*) FILTER (nth <= training) AS training_n "
        f"FROM (SELECT user, behavior, {numbered} AS nth FROM events) JOIN kept ON user = code GROUP BY behavior"
    ):
        behaviors, _, n = (batch.column(i).to_numpy() for i in range(3))
        present[behaviors] = True
        training[behaviors] = n
    order = sorted(np.flatnonzero(present).tolist(), key=lambda code: (-training[code], labels[code]))
    try:
        candidates = CandidateSet(tuple(labels[c] for c in order), tuple(int(training[c]) for c in order))
    except EdgebError as error:
        raise EdgebError(f"{name}: {error.message} among the users kept", error.hint) from None
    return candidates, _positions_of(order, len(labels)).astype(np.int16)


def _rank_places(database: Database, places: list[str]) -> tuple[list[str], list[int], NDArray[np.int32]]:
    """Names and counts of the kept places, most frequent first, and the rank of each place code."""
    rows = database.query("SELECT place, count(*) FROM events GROUP BY place")
    ranked = sorted(rows, key=lambda row: (-row[1], places[row[0]]))
    return [places[c] for c, _ in ranked], [n for _, n in ranked], _positions_of([c for c, _ in ranked], len(places))


def _positions_of(codes: list[int], size: int) -> NDArray[np.int32]:
    """[size] position of each code in the list, -1 where absent."""
    found = np.full(size, -1, np.int32)
    found[codes] = np.arange(len(codes), dtype=np.int32)
    return found


def _write_events(
    database: Database,
    out: Path,
    user_number: NDArray[np.int32],
    bounds: SplitBounds,
    label_number: NDArray[np.int16],
    place_number: NDArray[np.int32],
) -> dict[str, dict[str, str]]:
    """Stream the events, sorted by user, time and position, to their split's file; returns a checksum per column."""
    event_file(out, "train").parent.mkdir()
    digests = {split: {column: hashlib.sha256() for column in EVENT_SCHEMA.names} for split in SPLITS}
    written = np.zeros(len(bounds.counts), dtype=np.int64)
    writers = [pq.ParquetWriter(event_file(out, split), EVENT_SCHEMA, compression="zstd") for split in SPLITS]
    try:
        for batch in database.batches(
            "SELECT user, CAST(date_trunc('second', time) AS TIMESTAMP_S) AS time, place, behavior FROM events "
            "ORDER BY user, events.time, position"
        ):
            users = user_number[batch.column(0).to_numpy()]
            columns: list[NDArray[Any]] = [
                users,
                batch.column(1).cast(pa.int64()).to_numpy(),
                place_number[batch.column(2).to_numpy()],
                label_number[batch.column(3).to_numpy()],
            ]
            splits = bounds.of(users, _ranks(users, written))
            for i, split in enumerate(SPLITS):
                mask = splits == i
                if not mask.any():
                    continue
                chosen = [np.ascontiguousarray(column[mask]) for column in columns]
                for field, values in zip(EVENT_SCHEMA, chosen, strict=True):
                    digests[split][field.name].update(values.astype(values.dtype.newbyteorder("<")).tobytes())
                arrays = [pa.array(v).cast(f.type) for f, v in zip(EVENT_SCHEMA, chosen, strict=True)]
                writers[i].write_table(pa.Table.from_arrays(arrays, schema=EVENT_SCHEMA))
    finally:
        for writer in writers:
            writer.close()
    return {split: {column: d.hexdigest() for column, d in columns.items()} for split, columns in digests.items()}


def _ranks(users: NDArray[np.int32], written: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank of each event of a sorted batch among its user's events; adds the batch to `written` [U]."""
    starts = np.flatnonzero(np.append(True, users[1:] != users[:-1]))
    sizes = np.diff(np.append(starts, len(users)))
    ranks = np.arange(len(users)) - np.repeat(starts - written[users[starts]], sizes)
    written[users[starts]] += sizes
    return np.asarray(ranks, dtype=np.int64)
