"""Checks of a log's texts: missing users, groups and behaviors, one user written in two ways, or in two groups.

Knows nothing of files; `locate` names a row's line.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_behavior.core.events import INVISIBLE
from edge_behavior.data.duck import Database, literal
from edge_behavior.data.importers.loaded_log import Locate
from edge_behavior.errors import EdgebError
from edge_behavior.records.missing import MISSING_WORDS, is_missing

# What `is_missing` strips from both ends, as RE2 writes it.
_OUTER_SPACE = r"^[\s\v\p{Z}\x1c-\x1f\x85]+|[\s\v\p{Z}\x1c-\x1f\x85]+$"


def require_users(database: Database, locate: Locate, name: str) -> None:
    """Refuse a log with an event of no user, or with a user written both as 7 and as 7.0.

    Raises:
        EdgebError: naming the first line with such a user.
    """
    missing = _missing_texts(database, "user")
    if missing:
        text, first = _first_of(database, "user", missing)
        count = database.query_int(f"SELECT count(*) FROM log WHERE coalesce(user, '') IN ({missing})")
        more = f"; {count} rows have no user" if count > 1 else ""
        raise EdgebError(f"{locate(first)}: the {name} {_reads_as(text)}{more}", "drop the rows or name their users")
    whole = "regexp_extract(user, '^-?[0-9]+')"
    twice = database.query(
        f"SELECT user, {whole}, min(rowid) AS first FROM log WHERE regexp_full_match(user, '-?[0-9]+\\.0+') "
        f"AND {whole} IN (SELECT user FROM log) GROUP BY user ORDER BY first LIMIT 1"
    )
    if twice:
        text, plain, first = twice[0]
        raise EdgebError(
            f"{locate(first)}: {name} '{text}' is the same number as {name} '{plain}'",
            "write each user in one way",
        )


def require_groups(database: Database, locate: Locate, name: str) -> None:
    """Refuse a log that does not put every user into exactly one group.

    Raises:
        EdgebError: naming the first line without a group, or with another group than the user's first line.
    """
    missing = _missing_texts(database, "user_group")
    if missing:
        text, first = _first_of(database, "user_group", missing)
        raise EdgebError(
            f"{locate(first)}: the {name} {_reads_as(text)}", "give every user a group; a group may have one user"
        )
    first = database.query_row(
        "SELECT min(log.rowid) FROM log JOIN (SELECT user, arg_min(user_group, rowid) AS own FROM log GROUP BY user) "
        "AS firsts ON log.user = firsts.user WHERE user_group <> own"
    )[0]
    if first is not None:
        user, other, own = database.query_row(
            "SELECT user, user_group, (SELECT arg_min(user_group, rowid) FROM log AS same WHERE same.user = log.user) "
            f"FROM log WHERE rowid = {first}"
        )
        raise EdgebError(
            f"{locate(first)}: user '{user}' is in {name} '{other}' here and in '{own}' before",
            "a user belongs to one group; correct the log",
        )


def _missing_texts(database: Database, column: str) -> str:
    """A SQL list of the column's texts that `is_missing`; empty where there are none."""
    words = ", ".join(literal(word) for word in sorted(MISSING_WORDS))
    visible = f"translate(text, {literal(''.join(sorted(INVISIBLE)))}, '')"
    # On distinct texts, because the pattern is slow.
    texts = database.query(
        f"SELECT text FROM (SELECT DISTINCT coalesce({column}, '') AS text FROM log) "
        f"WHERE lower(regexp_replace({visible}, '{_OUTER_SPACE}', '', 'g')) IN ({words})"
    )
    return ", ".join(literal(text) for (text,) in texts)


def _first_of(database: Database, column: str, texts: str) -> tuple[str, int]:
    text, row = database.query_row(
        f"SELECT coalesce({column}, '') AS text, rowid FROM log WHERE text IN ({texts}) ORDER BY rowid LIMIT 1"
    )
    return str(text), int(row)


def _reads_as(text: str) -> str:
    return f"'{text}' reads as a missing value" if text else "is empty"


def missing_behaviors(
    texts: Sequence[tuple[str, str, int, int]], policy: str, locate: Locate
) -> tuple[frozenset[str], int]:
    """The behavior texts that stand for a missing value and are to be dropped, and how many rows have them.

    Args:
        texts: (text in the log, its label, rows, first row) of every distinct behavior, in the order of the log.
        policy: One of `options.MISSING_POLICIES`.

    Raises:
        EdgebError: there are some, and the policy is to refuse them.
    """
    found = [row for row in texts if is_missing(row[1])]
    if policy == "keep" or not found:
        return frozenset(), 0
    rows = sum(count for _, _, count, _ in found)
    if policy == "refuse":
        _, label, _, first = found[0]
        what = f"behavior '{label}' reads as a missing value" if label.strip() else "a behavior label is empty"
        words = ", ".join(dict.fromkeys(f"'{label.strip()}'" for _, label, _, _ in found))
        more = f"; {rows} rows have none ({words})" if rows > 1 else ""
        keep = (
            ", or --missing keep to use the words as labels" if any(label.strip() for _, label, _, _ in found) else ""
        )
        raise EdgebError(f"{locate(first)}: {what}{more}", f"pass --missing drop to drop such rows{keep}")
    return frozenset(text for text, _, _, _ in found), rows
