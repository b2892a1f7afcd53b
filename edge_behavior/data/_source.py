"""What an importer hands on: a table of raw events, and how their texts become names.

Every loader leaves a DuckDB table `log` (user, time, place, behavior, and user_group where users are grouped; text but
for the time), in the order of the file, and a `Source`. The checks that all formats share are here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_behavior.data._engine import Engine
from edge_behavior.data._text import Where
from edge_behavior.errors import EdgebError
from edge_behavior.events import clean_place, parse_time

# What DuckDB and Python read alike; anything else goes through events.parse_time, which decides.
_PLAIN_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{3}([0-9]{3})?)?)?)?"


@dataclass(frozen=True)
class Source:
    """A loaded log.

    Attributes:
        files: The files it came from, for their hashes.
        where: Row index to `file:line`.
        place: How places were made, for dataset.json; its `kind` is `none` where there are none.
        place_name: Raw place text to place name.
        label_name: Raw behavior text to label, or None where the event has no label and is dropped; None when the
            text is the label.
        no_label: Why an event without a label is dropped, for the report.
        grouped: Whether `log` says which group a user belongs to.
    """

    files: tuple[Path, ...]
    where: Where
    place: dict[str, Any]
    place_name: Callable[[str], str] = clean_place
    label_name: Callable[[str], str | None] | None = None
    no_label: str = "no_label"
    grouped: bool = False


def local_time_sql(text: str) -> str:
    """A DuckDB expression: ISO 8601 local time, or NULL where the text is something else."""
    trimmed = f"trim({text})"
    plain = f"regexp_full_match({trimmed}, '{_PLAIN_TIME}') AND NOT starts_with({trimmed}, '0000')"
    return f"CASE WHEN {plain} THEN TRY_CAST({trimmed} AS TIMESTAMP) END"


def settle_times(engine: Engine, where: Where, parse: Callable[[str, str], datetime] = parse_time) -> None:
    """Parse the times that SQL left NULL with `parse`, and drop the column `odd` that holds their texts.

    Args:
        parse: (text, file:line) to time; raises EdgebError.

    Raises:
        EdgebError: the first text in the log that is no time, or carries a zone.
    """
    odd = engine.rows(
        "SELECT coalesce(odd, '') AS text, min(rowid) AS first FROM log WHERE time IS NULL GROUP BY text ORDER BY first"
    )
    if odd:
        times = []
        for text, first in odd:
            try:
                times.append(parse(text, "log"))
            except EdgebError:
                # Finding the line means reading the file up to it: only for the one that fails.
                parse(text, where(first))
                raise
        engine.table("odd_times", {"text": [text for text, _ in odd], "value": times})
        engine.rows("UPDATE log SET time = value FROM odd_times WHERE log.odd = odd_times.text")
        engine.rows("DROP TABLE odd_times")
    engine.rows("ALTER TABLE log DROP COLUMN odd")


def require_users(engine: Engine, where: Where, name: str) -> None:
    """Refuse a log with an event that belongs to nobody.

    Raises:
        EdgebError: naming the first line with an empty user.
    """
    first = engine.row("SELECT min(rowid) FROM log WHERE coalesce(user, '') = ''")[0]
    if first is not None:
        raise EdgebError(f"{where(first)}: the {name} is empty", "drop the row or name its user")


def require_groups(engine: Engine, where: Where, name: str) -> None:
    """Refuse a log that does not say of each user which one group they belong to.

    Raises:
        EdgebError: naming the first line with an empty group, or with another group than the user's first line has.
    """
    first = engine.row("SELECT min(rowid) FROM log WHERE coalesce(user_group, '') = ''")[0]
    if first is not None:
        raise EdgebError(f"{where(first)}: the {name} is empty", "give every user a group; one alone is a group, too")
    first = engine.row(
        "SELECT min(log.rowid) FROM log JOIN (SELECT user, arg_min(user_group, rowid) AS own FROM log GROUP BY user) "
        "AS firsts ON log.user = firsts.user WHERE user_group <> own"
    )[0]
    if first is not None:
        user, other, own = engine.row(
            "SELECT user, user_group, (SELECT arg_min(user_group, rowid) FROM log AS same WHERE same.user = log.user) "
            f"FROM log WHERE rowid = {first}"
        )
        raise EdgebError(
            f"{where(first)}: user '{user}' is in {name} '{other}' here and in '{own}' before",
            "a user belongs to one group; correct the log",
        )
