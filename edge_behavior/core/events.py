"""One `BehaviorEvent`, and the cleaning of its texts.

Text from a log is cleaned here, once, so that everything downstream can rely on it. Knows nothing of files, prompts,
tokens or candidate sets.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from edge_behavior.core.fields import naming
from edge_behavior.core.times.clock import LOCAL, Clock, parse_time
from edge_behavior.errors import EdgebError

MAX_PLACE_CHARS = 48
MAX_LABEL_CHARS = 200
UNKNOWN_PLACE = "unknown"
# Invisible marks that only steer layout: soft hyphen, Arabic letter mark, zero-width space, direction marks,
# embeddings and isolates, word joiner, byte order mark. App names often carry them.
INVISIBLE = frozenset(
    "\u00ad\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
JOINERS = "\u200c\u200d"
_JOINERS = re.compile(f"[{JOINERS}]+")
_JOINED = ("L", "M", "N", "S")
_CONTROL = ("Cc", "Cf", "Zl", "Zp", "Cs")
_PLACE_PUNCTUATION = frozenset("-_.&/+")


@dataclass(frozen=True, slots=True)
class BehaviorEvent:
    """One thing a user did: where, when (local time, no zone) and what (paper §2.1, e = (l, t, b))."""

    place: str
    time: datetime
    behavior: str


def read_event(time: str, place: str, behavior: str, where: str, clock: Clock = LOCAL) -> BehaviorEvent:
    """An event from a file's texts, cleaned.

    Args:
        where: Names the file and line, for the error message.
        clock: What to do with times that carry an offset or count from 1970.

    Raises:
        EdgebError: not a time, or a behavior that cannot be a label.
    """
    when = parse_time(time, where, clock)
    with naming(where):
        return BehaviorEvent(clean_place(place), when, clean_label(behavior))


@lru_cache(maxsize=65_536)
def clean_place(text: str) -> str:
    """Reduce a place name to letters, digits, single spaces and `-_.&/+`, at most 48 characters.

    Brackets, commas, quotes, newlines and control characters structure a prompt, so a place name cannot contain them;
    an empty result becomes "unknown".
    """
    kept = [
        c if unicodedata.category(c)[0] in "LMN" or c in _PLACE_PUNCTUATION else " "
        for c in unicodedata.normalize("NFC", text)
    ]
    return " ".join("".join(kept).split())[:MAX_PLACE_CHARS].rstrip() or UNKNOWN_PLACE


def clean_label(text: str) -> str:
    """Normalize a behavior label: NFC, no invisible marks, single spaces, none at the ends.

    Joiners (U+200C, U+200D) stay where they shape a word or an emoji: between two letters, marks, numbers or symbols,
    and after a combining mark.

    Raises:
        EdgebError: the label is empty, longer than 200 characters or holds a control character.
    """
    visible = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text if c not in INVISIBLE)
    spaced = " ".join(part for part in visible.strip().split(" ") if part)
    label = _JOINERS.sub(_joiner, unicodedata.normalize("NFC", spaced))
    label = " ".join(part for part in label.split(" ") if part)
    if not label:
        raise EdgebError("a behavior label is empty", "drop the row or give the behavior a name")
    bad = next((c for c in label if c not in JOINERS and unicodedata.category(c) in _CONTROL), None)
    if bad is not None:
        raise EdgebError(
            f"behavior label {label!r} holds the control character U+{ord(bad):04X}",
            "labels are one line of plain text; rename it in the log",
        )
    if len(label) > MAX_LABEL_CHARS:
        raise EdgebError(
            f"behavior label {label[:40]!r}… has {len(label)} characters", f"use at most {MAX_LABEL_CHARS}"
        )
    return label


def _joiner(found: re.Match[str]) -> str:
    text, start, end = found.string, found.start(), found.end()
    before = unicodedata.category(text[start - 1])[0] if start else ""
    after = unicodedata.category(text[end])[0] if end < len(text) else ""
    return text[start] if before == "M" or (before in _JOINED and after in _JOINED) else ""
