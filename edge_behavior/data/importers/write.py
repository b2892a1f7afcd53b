"""From a DuckDB table of raw events to the files of a dataset folder.

Codes texts, drops duplicates and repeats, skips users with too few events, splits by user or time, streams the sorted
events to Parquet. Every row that does not arrive is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edge_behavior.core.candidates import CandidateSet, check_labels, same_looking
from edge_behavior.core.events import UNKNOWN_PLACE, clean_label
from edge_behavior.data.dataset import EVENT_SCHEMA, HISTORY_LENGTH, SPLITS, digest_texts, event_file
from edge_behavior.data.duck import Engine
from edge_behavior.data.importers.source import Source
from edge_behavior.data.importers.split import Parts, split_time, split_users
from edge_behavior.data.importers.text import Where
from edge_behavior.data.importers.values import missing_behaviors
from edge_behavior.data.importers.warnings import warn, without_hours
from edge_behavior.errors import EdgebError
from edge_behavior.records.missing import is_missing

MAX_LABELS = 2**15 - 1  # behavior is an int16
_QUANTILES = {"min": 0.0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1.0}


@dataclass(frozen=True)
class Rules:
    """What to keep of a log.

    Attributes:
        seed: Of the split.
        min_events: Users with fewer are skipped.
        merge_seconds: An event that repeats the user's previous behavior at the same place within so many seconds
            is dropped; 0 keeps all.
        missing: What to do with events that have no behavior: one of `_values.POLICIES`.
        split: `users` or `time`, see `_split`.
    """

    seed: int
    min_events: int
    merge_seconds: int
    missing: str
    split: str = "users"


def write_dataset(
    engine: Engine, source: Source, rules: Rules, out: Path, step: Callable[[str], None]
) -> dict[str, Any]:
    """Write the Parquet files for the table `log` into the existing folder `out`.

    Args:
        step: Called with a few words when a stage of the work begins.

    Returns:
        The fields of dataset.json that describe the content.

    Raises:
        EdgebError: bad labels, or too few users to split.
    """
    name = str(source.files[0])
    dropped: dict[str, int] = {}
    rows = engine.number("SELECT count(*) FROM log")
    step("cleaning labels and places")
    labels, places, missing, missing_places = _code_texts(engine, source, rules.missing)
    step("dropping duplicates")
    kept_rows = engine.number("SELECT count(*) FROM coded")
    if rules.missing == "drop":
        dropped["missing"] = missing
    if source.label_name is not None:
        dropped[source.no_label] = rows - kept_rows - missing
    engine.rows("DROP TABLE log")
    engine.rows(
        "CREATE TABLE events AS SELECT user, time, place, behavior, min(position) AS position FROM coded GROUP BY ALL"
    )
    engine.rows("DROP TABLE coded")
    dropped["duplicate"], kept_rows = _lost(engine, kept_rows)
    if rules.merge_seconds:
        _merge_repeats(engine, rules.merge_seconds)
        dropped["repeat"], kept_rows = _lost(engine, kept_rows)

    step(f"splitting by {rules.split}")
    users = engine.rows(
        "SELECT code, text, n, text_group FROM users JOIN (SELECT user, count(*) AS n FROM events GROUP BY user) "
        "ON code = user ORDER BY text"
    )
    kept = [row for row in users if row[2] >= rules.min_events]
    ids, groups = [row[1] for row in kept], [row[3] for row in kept]
    counts = np.array([row[2] for row in kept], dtype=np.int64)
    try:
        if rules.split == "time":
            parts = split_time(counts, name, rules.min_events)
        else:
            parts = split_users(counts, groups if source.grouped else ids, rules.seed, name, rules.min_events)
    except EdgebError as error:
        notes = [f"{dropped['duplicate']:,} rows were exact duplicates"] if dropped["duplicate"] else []
        notes += ["no time has an hour"] if without_hours(engine) else []
        raise EdgebError("; ".join([error.message, *notes]), error.hint) from None
    codes = [row[0] for row in kept]
    dropped["short_user"] = kept_rows - int(counts.sum())
    total_users = engine.number("SELECT count(*) FROM users")
    number = _number(codes, total_users)
    engine.table("kept", {"code": pa.array(codes, pa.int64()), "training": pa.array(parts.ends(0))})
    engine.rows("DELETE FROM events WHERE user NOT IN (SELECT code FROM kept)")

    candidates, label_number = _candidates(engine, labels, rules.split, name)
    place_names, place_counts, place_number = _rank_places(engine, places)
    placed = source.place["kind"] != "none"
    warnings = warn(engine, dropped["duplicate"], placed)
    step("sorting and writing")
    content = _write_events(engine, out, number, parts, label_number, place_number)
    if not placed:
        # Every event's place is the same empty text, which is the name of no place.
        place_names, place_counts = [], []
    content["users"] = digest_texts(ids)
    content["places"] = digest_texts(place_names)
    columns: dict[str, Any] = {
        "user": pa.array(range(len(kept)), pa.int32()),
        "user_id": pa.array(ids, pa.string()),
        "split": pa.array(parts.names(), pa.string()),
        "events": counts,
    }
    if source.grouped:
        content["groups"] = digest_texts(groups)
        columns["group"] = pa.array(groups, pa.string())
    pq.write_table(pa.table(columns), out / "users.parquet")
    pq.write_table(
        pa.table(
            {
                "place": pa.array(range(len(place_names)), pa.int32()),
                "name": pa.array(place_names, pa.string()),
                "events": pa.array(place_counts, pa.int64()),
            }
        ),
        out / "places.parquet",
    )
    start, end = engine.row("SELECT min(time), max(time) FROM events")
    return {
        "rows": {"read": rows, "dropped": dropped},
        "users": {
            "read": total_users,
            "skipped": total_users - len(kept),
            "kept": len(kept),
            **({"groups": len(set(groups))} if source.grouped else {}),
        },
        "history_length": HISTORY_LENGTH,
        "splits": {split: parts.facts(i, HISTORY_LENGTH) for i, split in enumerate(SPLITS)},
        "span": {"start": start.isoformat(timespec="seconds"), "end": end.isoformat(timespec="seconds")},
        "events_per_user": {
            **{key: float(np.quantile(counts, q)) for key, q in _QUANTILES.items()},
            "mean": float(counts.mean()),
        },
        "place": {**source.place, "count": len(place_names), **({"missing": missing_places} if placed else {})},
        "candidates": {"labels": list(candidates.labels), "counts": list(candidates.counts)},
        "content": content,
        "warnings": warnings,
    }


def _lost(engine: Engine, before: int) -> tuple[int, int]:
    after = engine.number("SELECT count(*) FROM events")
    return before - after, after


def _code_texts(engine: Engine, source: Source, missing: str) -> tuple[list[str], list[str], int, int]:
    """Make `coded` (user, time, place, behavior, position) and `users`.

    Returns:
        The label names, the place names, and how many rows have no behavior and are left out, and how many no place.
    """
    distinct = engine.number("SELECT count(DISTINCT behavior) FROM log")
    if source.label_name is None and distinct > MAX_LABELS:
        raise EdgebError(
            f"{source.files[0]}: {distinct} distinct behaviors, more than {MAX_LABELS}",
            "is --behavior-column the right column? Merge rare behaviors",
        )
    rows = engine.rows(
        "SELECT coalesce(behavior, '') AS text, count(*) AS n, min(rowid) AS first FROM log "
        "GROUP BY text ORDER BY first"
    )
    found = {text: source.label_name(text) if source.label_name else text for text, _, _ in rows}
    named = [(text, label, n, first) for text, n, first in rows if (label := found[text]) is not None]
    gone, missing_rows = missing_behaviors(named, missing, source.where)
    texts = [(text, first) for text, _, _, first in named if text not in gone]
    if source.label_name is None:
        labels = _clean_labels(texts, source.where, str(source.files[0]))
    else:
        labels = {text: label for text, label, _, _ in named if text not in gone}
        check_labels(sorted(set(labels.values())))
    raw_places = engine.rows("SELECT coalesce(place, '') AS text, count(*) FROM log GROUP BY text")
    places = {text: UNKNOWN_PLACE if is_missing(text) else source.place_name(text) for text, _ in raw_places}
    missing_places = sum(n for text, n in raw_places if is_missing(text))
    label_names, place_names = sorted(set(labels.values())), sorted(set(places.values()))
    for table, mapping, names in (("labels", labels, label_names), ("place_names", places, place_names)):
        codes = {text: code for code, text in enumerate(names)}
        engine.table(
            table,
            {
                "text": pa.array(list(mapping), pa.string()),
                "code": pa.array([codes[text] for text in mapping.values()], pa.int32()),
            },
        )
    group = "any_value(user_group)" if source.grouped else "NULL"
    engine.rows(
        f"CREATE TABLE users AS SELECT user AS text, {group} AS text_group, "
        "CAST(row_number() OVER (ORDER BY user) - 1 AS INTEGER) AS code FROM log GROUP BY user"
    )
    engine.rows(
        "CREATE TABLE coded AS SELECT users.code AS user, log.time AS time, place_names.code AS place, "
        "labels.code AS behavior, log.rowid AS position FROM log JOIN users ON log.user = users.text "
        "JOIN place_names ON coalesce(log.place, '') = place_names.text "
        "JOIN labels ON coalesce(log.behavior, '') = labels.text"
    )
    return label_names, place_names, missing_rows, missing_places


def _clean_labels(texts: list[tuple[Any, ...]], where: Where, name: str) -> dict[str, str]:
    """Raw behavior text to label; refuses what cannot be one, and two that differ only by case, space or joiners."""
    labels: dict[str, str] = {}
    seen: dict[str, str] = {}
    for text, first in texts:
        try:
            label = clean_label(text)
        except EdgebError as error:
            raise EdgebError(f"{where(first)}: {error.message}", error.hint) from None
        key = same_looking(label)
        if seen.setdefault(key, label) != label:
            raise EdgebError(
                f"{where(first)}: behavior '{label}' differs from '{seen[key]}' only by case or space",
                "merge the two under one name in the log",
            )
        labels[text] = label
    try:
        check_labels(sorted(set(labels.values())))
    except EdgebError as error:
        raise EdgebError(f"{name}: {error.message}", error.hint) from None
    return labels


def _merge_repeats(engine: Engine, seconds: int) -> None:
    engine.rows(
        "CREATE TABLE merged AS SELECT user, time, place, behavior, position FROM events "
        "WINDOW w AS (PARTITION BY user ORDER BY time, position) "
        "QUALIFY NOT coalesce(lag(behavior) OVER w = behavior AND lag(place) OVER w = place "
        f"AND time - lag(time) OVER w <= to_seconds({seconds}), false)"
    )
    engine.rows("DROP TABLE events")
    engine.rows("ALTER TABLE merged RENAME TO events")


def _candidates(engine: Engine, labels: list[str], split: str, name: str) -> tuple[CandidateSet, NDArray[np.int16]]:
    """The candidate set of what was kept, and raw label code to candidate."""
    training, present = np.zeros(len(labels), np.int64), np.zeros(len(labels), bool)
    # Numbering the events sorts them, which a split by users does not need.
    numbered = "row_number() OVER (PARTITION BY user ORDER BY time, position)" if split == "time" else "1"
    for batch in engine.batches(
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
    return candidates, _number(order, len(labels)).astype(np.int16)


def _rank_places(engine: Engine, places: list[str]) -> tuple[list[str], list[int], NDArray[np.int32]]:
    """Names and counts of the places that occur, most frequent first, and raw place code to number."""
    rows = engine.rows("SELECT place, count(*) FROM events GROUP BY place")
    ranked = sorted(rows, key=lambda row: (-row[1], places[row[0]]))
    return [places[c] for c, _ in ranked], [n for _, n in ranked], _number([c for c, _ in ranked], len(places))


def _number(codes: list[int], size: int) -> NDArray[np.int32]:
    """The inverse of a list of codes: code to its position, -1 where absent."""
    number = np.full(size, -1, np.int32)
    number[codes] = np.arange(len(codes), dtype=np.int32)
    return number


def _write_events(
    engine: Engine,
    out: Path,
    user_number: NDArray[np.int32],
    kept: Parts,
    label_number: NDArray[np.int16],
    place_number: NDArray[np.int32],
) -> dict[str, Any]:
    """Stream the events, sorted by user, time and position, to their part's file; returns a digest per column."""
    event_file(out, "train").parent.mkdir()
    digests = {split: {column: hashlib.sha256() for column in EVENT_SCHEMA.names} for split in SPLITS}
    written = np.zeros(len(kept.counts), dtype=np.int64)
    writers = [pq.ParquetWriter(event_file(out, split), EVENT_SCHEMA, compression="zstd") for split in SPLITS]
    try:
        for batch in engine.batches(
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
            parts = kept.of(users, _ranks(users, written))
            for i, split in enumerate(SPLITS):
                mask = parts == i
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
    """Numbers of events among their user's, of a batch of the sorted events; counts the batch in `written` [U]."""
    starts = np.flatnonzero(np.append(True, users[1:] != users[:-1]))
    sizes = np.diff(np.append(starts, len(users)))
    ranks = np.arange(len(users)) - np.repeat(starts - written[users[starts]], sizes)
    written[users[starts]] += sizes
    return np.asarray(ranks, dtype=np.int64)
