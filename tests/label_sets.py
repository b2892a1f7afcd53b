"""Label lists that a tokenizer and a trie may stumble over: prefixes of each other, any script, any punctuation."""

from __future__ import annotations

import random
from contextlib import suppress

from hypothesis import strategies as st

from edge_behavior.core.events import clean_label
from edge_behavior.errors import EdgebError

_WORDS = ["Video", "Call", "Bar", "Café", "買い物", "東京", "Почта", "🎮", "👩", "e", "a", "ß", "x" * 12]
_MARKS = [*"()[]{}<>|\\\"'`#:;,.!?/&%$@^*+=~_-", "::=", "\\n", "<[5]>", "—", "…", "€", "½"]
_PIECE = st.one_of(
    st.sampled_from(_WORDS),
    st.sampled_from(_MARKS),
    st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=4),
)


def distinct(labels: list[str]) -> list[str]:
    """Cleaned, without those that a candidate set refuses."""
    kept: dict[str, str] = {}
    for label in labels:
        _add(kept, label)
    return list(kept.values())


@st.composite
def label_sets(draw: st.DrawFn, most: int = 10) -> list[str]:
    """2 to `most` labels; half of them continue another one."""
    stems = draw(st.lists(st.lists(_PIECE, min_size=1, max_size=3), min_size=2, max_size=max(2, most // 2)))
    labels = [draw(st.sampled_from(["", " "])).join(stem) for stem in stems]
    for piece in draw(st.lists(_PIECE, max_size=most - len(labels))):
        labels.append(draw(st.sampled_from(labels)) + draw(st.sampled_from(["", " "])) + piece)
    found = distinct(labels)[:most]
    return found if len(found) > 1 else distinct([*found, "Video", "Video Call"])[:2]


def many_labels(count: int, seed: int = 0) -> list[str]:
    """`count` labels in families that share beginnings, some of them in other scripts."""
    rng = random.Random(seed)
    kept: dict[str, str] = {}
    while len(kept) < count:
        stem = rng.choice(_WORDS)
        for _ in range(rng.randint(1, 4)):
            stem += rng.choice(["", " "]) + rng.choice(_WORDS + _MARKS)
            _add(kept, stem)
    return list(kept.values())[:count]


def _add(kept: dict[str, str], label: str) -> None:
    with suppress(EdgebError):
        clean = clean_label(label)
        kept.setdefault("".join(clean.split()).casefold(), clean)
