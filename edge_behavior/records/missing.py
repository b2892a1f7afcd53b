"""Words for "no value" that programs write into logs, the same for importers and history files."""

from __future__ import annotations

from edge_behavior.core.events import INVISIBLE

# What programs write where they have no value, in lower case. "unknown" and "other" are not among them: people mean
# something by those.
MISSING_WORDS = frozenset(
    [
        *("", "null", "none", "nil", "na", "n/a", "n.a.", "nan", "nat", "undefined", "\\n", "-", "--", "?"),
        *("(null)", "(none)", "<null>", "<none>", "<na>", "<nil>", "[null]", "#n/a", "#na", "#null!", "#value!"),
    ]
)


def is_missing(text: str) -> bool:
    """Whether a text says that there is no value, or nothing at all."""
    return "".join(c for c in text if c not in INVISIBLE).strip().lower() in MISSING_WORDS
