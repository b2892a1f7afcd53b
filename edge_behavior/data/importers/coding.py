"""Turns the texts of a loaded log into codes: labels are cleaned, places named, and missing values settled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from edge_behavior.core.candidates import check_labels, same_looking
from edge_behavior.core.events import MAX_PLACE_CHARS, UNKNOWN_PLACE, clean_label
from edge_behavior.data.duck import Database
from edge_behavior.data.importers.checks import missing_behaviors
from edge_behavior.data.importers.loaded_log import LoadedLog
from edge_behavior.errors import EdgebError
from edge_behavior.records.missing import is_missing

MAX_LABELS = 2**15 - 1  # behavior is an int16


@dataclass(frozen=True)
class CodedLog:
    """A log whose texts are codes.

    Attributes:
        labels: Label per behavior code, sorted.
        places: Place name per place code, sorted.
        missing_behaviors: Rows dropped because they have no behavior.
        missing_places: Rows without a place.
        cut_places: Names that stand for several places, which differ only beyond the length of a name.
    """

    labels: list[str]
    places: list[str]
    missing_behaviors: int
    missing_places: int
    cut_places: list[str]


def code_texts(database: Database, log: LoadedLog, missing: str) -> CodedLog:
    """Create the tables `coded` (user, time, place, behavior, position) and `users` (text, text_group, code).

    Args:
        missing: One of `options.MISSING_POLICIES`.

    Raises:
        EdgebError: too many labels, a text that cannot be a label, or a missing behavior that is refused.
    """
    distinct = database.query_int("SELECT count(DISTINCT behavior) FROM log")
    if log.label_name is None and distinct > MAX_LABELS:
        raise EdgebError(
            f"{log.files[0]}: {distinct} distinct behaviors, more than {MAX_LABELS}",
            "is --behavior-column the right column? Merge rare behaviors",
        )
    labels, missing_rows = _label_of_text(database, log, missing)
    raw_places = database.query("SELECT coalesce(place, '') AS text, count(*) FROM log GROUP BY text")
    places = {text: UNKNOWN_PLACE if is_missing(text) else log.place_name(text) for text, _ in raw_places}
    missing_places = sum(n for text, n in raw_places if is_missing(text))
    label_names, place_names = sorted(set(labels.values())), sorted(set(places.values()))
    for table, mapping, names in (("labels", labels, label_names), ("place_names", places, place_names)):
        codes = {text: code for code, text in enumerate(names)}
        database.create_table(
            table,
            {
                "text": pa.array(list(mapping), pa.string()),
                "code": pa.array([codes[text] for text in mapping.values()], pa.int32()),
            },
        )
    group = "any_value(user_group)" if log.grouped else "NULL"
    database.execute(
        f"CREATE TABLE users AS SELECT user AS text, {group} AS text_group, "
        "CAST(row_number() OVER (ORDER BY user) - 1 AS INTEGER) AS code FROM log GROUP BY user"
    )
    database.execute(
        "CREATE TABLE coded AS SELECT users.code AS user, log.time AS time, place_names.code AS place, "
        "labels.code AS behavior, log.rowid AS position FROM log JOIN users ON log.user = users.text "
        "JOIN place_names ON coalesce(log.place, '') = place_names.text "
        "JOIN labels ON coalesce(log.behavior, '') = labels.text"
    )
    return CodedLog(label_names, place_names, missing_rows, missing_places, _cut_places(places))


def _cut_places(names: Mapping[str, str]) -> list[str]:
    """Names of full length that stand for several texts, a longer one among them; of the name per text."""
    texts = defaultdict[str, list[str]](list)
    for text, name in names.items():
        # A space that ended the name is gone.
        if len(name) >= MAX_PLACE_CHARS - 1:
            texts[name].append(text)
    return sorted(n for n, held in texts.items() if len(held) > 1 and max(map(len, held)) > MAX_PLACE_CHARS)


def _label_of_text(database: Database, log: LoadedLog, missing: str) -> tuple[dict[str, str], int]:
    """Label per raw behavior text, of those that are kept, and how many rows have no behavior."""
    rows = database.query(
        "SELECT coalesce(behavior, '') AS text, count(*) AS n, min(rowid) AS first FROM log "
        "GROUP BY text ORDER BY first"
    )
    found = {text: log.label_name(text) if log.label_name else text for text, _, _ in rows}
    named = [(text, label, n, first) for text, n, first in rows if (label := found[text]) is not None]
    gone, missing_rows = missing_behaviors(named, missing, log.locate)
    if log.label_name is None:
        return _clean_labels([(text, first) for text, _, _, first in named if text not in gone], log), missing_rows
    labels = {text: label for text, label, _, _ in named if text not in gone}
    check_labels(sorted(set(labels.values())))
    return labels, missing_rows


def _clean_labels(texts: Sequence[tuple[str, int]], log: LoadedLog) -> dict[str, str]:
    """Label per raw text; refuses texts that cannot be labels, and labels that differ only by case, space or joiners.

    Args:
        texts: (text, first row).
    """
    labels: dict[str, str] = {}
    seen: dict[str, str] = {}
    for text, first in texts:
        try:
            label = clean_label(text)
        except EdgebError as error:
            raise EdgebError(f"{log.locate(first)}: {error.message}", error.hint) from None
        key = same_looking(label)
        if seen.setdefault(key, label) != label:
            raise EdgebError(
                f"{log.locate(first)}: behavior '{label}' differs from '{seen[key]}' only by case or space",
                "merge the two under one name in the log",
            )
        labels[text] = label
    try:
        check_labels(sorted(set(labels.values())))
    except EdgebError as error:
        raise EdgebError(f"{log.files[0]}: {error.message}", error.hint) from None
    return labels
