"""Words that programs write for a missing value; importers and history files share them."""

from __future__ import annotations

from edge_behavior.core.events import INVISIBLE

# In lower case. "unknown" and "other" are not among them, because people use them as values.
MISSING_WORDS = frozenset(
    [
        *("", "null", "none", "nil", "na", "n/a", "n.a.", "nan", "nat", "undefined", "\\n", "-", "--", "?"),
        *("(null)", "(none)", "<null>", "<none>", "<na>", "<nil>", "[null]", "#n/a", "#na", "#null!", "#value!"),
    ]
)


def is_missing(text: str) -> bool:
    """Whether a text is a word for a missing value, or has nothing visible."""
    return "".join(c for c in text if c not in INVISIBLE).strip().lower() in MISSING_WORDS
