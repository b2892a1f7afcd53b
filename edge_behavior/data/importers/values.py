"""What a log's texts must not be: words for a missing value, one user written in two ways, or in two groups.

Knows nothing of files; `where` names a row's line.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_behavior.data.duck import Engine, literal
from edge_behavior.data.importers.text import Where
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.records.missing import MISSING_WORDS, is_missing

POLICIES = ("refuse", "drop", "keep")


def check_policy(missing: str) -> None:
    """Refuse an unknown way to treat missing behaviors.

    Raises:
        EdgebError: naming the known ones.
    """
    if missing not in POLICIES:
        raise EdgebError(f"unknown --missing '{missing}'", nearest(missing, POLICIES))


def require_users(engine: Engine, where: Where, name: str) -> None:
    """Refuse a log with an event that belongs to nobody, or with a user written both as 7 and as 7.0.

    Raises:
        EdgebError: naming the first line with such a user.
    """
    missing = _is_missing("user")
    rows = engine.rows(f"SELECT coalesce(user, ''), rowid FROM log WHERE {missing} ORDER BY rowid LIMIT 1")
    if rows:
        text, first = rows[0]
        count = engine.number(f"SELECT count(*) FROM log WHERE {missing}")
        more = f"; {count} rows name no user" if count > 1 else ""
        what = f"'{text}' reads as a missing value" if text else "is empty"
        raise EdgebError(f"{where(first)}: the {name} {what}{more}", "drop the rows or name their users")
    whole = "regexp_extract(user, '^-?[0-9]+')"
    twice = engine.rows(
        f"SELECT user, {whole}, min(rowid) AS first FROM log WHERE regexp_full_match(user, '-?[0-9]+\\.0+') "
        f"AND {whole} IN (SELECT user FROM log) GROUP BY user ORDER BY first LIMIT 1"
    )
    if twice:
        text, plain, first = twice[0]
        raise EdgebError(
            f"{where(first)}: {name} '{text}' is the number of {name} '{plain}'", "write the same user in one way"
        )


def require_groups(engine: Engine, where: Where, name: str) -> None:
    """Refuse a log that does not say of each user which one group they belong to.

    Raises:
        EdgebError: naming the first line with no group or a word for none, which would put strangers into one group, or
            with another group than the user's first line has.
    """
    missing = _is_missing("user_group")
    rows = engine.rows(f"SELECT coalesce(user_group, ''), rowid FROM log WHERE {missing} ORDER BY rowid LIMIT 1")
    if rows:
        text, first = rows[0]
        what = f"'{text}' reads as a missing value" if text else "is empty"
        raise EdgebError(f"{where(first)}: the {name} {what}", "give every user a group; one alone is a group, too")
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


def _is_missing(column: str) -> str:
    """SQL for whether a column of `log` has no text, or a word for none."""
    words = ", ".join(literal(word) for word in sorted(MISSING_WORDS))
    return f"lower(coalesce({column}, '')) IN ({words})"


def missing_behaviors(
    texts: Sequence[tuple[str, str, int, int]], policy: str, where: Where
) -> tuple[frozenset[str], int]:
    """Which behaviors to drop because they say that there is none, and how many rows have them.

    Args:
        texts: (text in the log, its label, rows, first row) of every distinct behavior, in the order of the log.
        policy: One of POLICIES.

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
        raise EdgebError(
            f"{where(first)}: {what}{more}", "--missing drop drops such rows, --missing keep takes the words as labels"
        )
    return frozenset(text for text, _, _, _ in found), rows
