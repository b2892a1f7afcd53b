"""The candidate set: the fixed label list B and its frequency groups.

Anchors (behaviors above 1 % of training events) and the groups head, medium and tail follow from training counts and a
threshold; they are never stored as flags.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.events import JOINERS, BehaviorEvent, clean_label
from edge_behavior.errors import EdgebError, nearest

ANCHOR_THRESHOLD = 0.01
HEAD_THRESHOLD = 0.05
GROUPS = ("head", "medium", "tail")
# Share of a prior spread evenly, so that labels unseen in training keep a probability above 0.
_EVEN_SHARE = 0.01


@dataclass(frozen=True)
class CandidateSet:
    """The labels a model can predict, in a fixed order, and how often each occurs in training.

    Attributes:
        labels: Unique, cleaned labels; a candidate's index here is its code everywhere else.
        counts: Training events per label, same order; all zero when unknown.
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    _codes: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if len(self.counts) != len(self.labels):
            raise EdgebError(f"{len(self.counts)} counts for {len(self.labels)} labels", "give one count per label")
        object.__setattr__(self, "_codes", {label: i for i, label in enumerate(self.labels)})

    @classmethod
    def of(cls, labels: Sequence[str], counts: Sequence[int] | None = None) -> CandidateSet:
        """Build from raw labels, each cleaned."""
        return cls(tuple(clean_label(x) for x in labels), tuple(counts) if counts is not None else (0,) * len(labels))

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, label: str) -> bool:
        """Whether a label is a candidate once cleaned (`clean_label`)."""
        return self._find(label) is not None

    def code(self, label: str, where: str = "") -> int:
        """Index of a label once cleaned (`clean_label`).

        Raises:
            EdgebError: the label is not a candidate; the hint names the nearest one.
        """
        found = self._find(label)
        if found is None:
            prefix = f"{where}: " if where else ""
            # An invisible mark can be what makes a label unknown.
            shown = f"'{label}'" if label.isprintable() else repr(label)
            raise EdgebError(f"{prefix}{shown} is not in the candidate set", nearest(label, self.labels))
        return found

    def named(self, event: BehaviorEvent, where: str = "") -> BehaviorEvent:
        """The event with its behavior in the candidate's spelling.

        Raises:
            EdgebError: as `code`.
        """
        label = self.labels[self.code(event.behavior, where)]
        return event if label == event.behavior else replace(event, behavior=label)

    def _find(self, label: str) -> int | None:
        found = self._codes.get(label)
        if found is None:
            try:
                return self._codes.get(clean_label(label))
            except EdgebError:
                return None
        return found

    @property
    def shares(self) -> NDArray[np.float64]:
        """Fraction of training events per label, shape [B]; zeros when nothing was counted."""
        counts = np.asarray(self.counts, dtype=np.float64)
        return np.asarray(counts / max(counts.sum(), 1.0))

    def anchors(self, threshold: float = ANCHOR_THRESHOLD) -> NDArray[np.bool_]:
        """Mask [B] of labels above `threshold` of training events (paper §2.2)."""
        return self.shares > threshold

    def groups(self, anchor: float = ANCHOR_THRESHOLD, head: float = HEAD_THRESHOLD) -> tuple[str, ...]:
        """Evaluation bin per label: head above `head`, medium above `anchor`, else tail (paper §4.1.2)."""
        return tuple("head" if s > head else "medium" if s > anchor else "tail" for s in self.shares)


def smoothed_shares(counts: ArrayLike) -> NDArray[np.float64]:
    """Training shares [B] with a hundredth spread evenly, so that none is 0: what counters back off to last.

    Args:
        counts: [B] training counts or shares; all zero gives even shares.

    Raises:
        EdgebError: not one number of 0 or more per candidate.
    """
    held = np.asarray(counts, dtype=np.float64)
    if held.ndim != 1 or not len(held) or not np.isfinite(held).all() or (held < 0).any():
        raise EdgebError("the habits' prior needs one non-negative number per candidate", "pass training counts")
    even = np.full(len(held), 1.0 / len(held))
    total = held.sum()
    return even if total == 0 else (1 - _EVEN_SHARE) * held / total + _EVEN_SHARE * even


def same_looking(label: str) -> str:
    """Key that labels share which differ only by case, space or joiners."""
    return "".join(c for c in label if not c.isspace() and c not in JOINERS).casefold()


def check_labels(labels: Iterable[str]) -> None:
    """Check that a label list can be a candidate set.

    Raises:
        EdgebError: fewer than two labels, an uncleaned label, or two that differ only by case, space or joiners.
    """
    seen: dict[str, str] = {}
    for label in labels:
        if clean_label(label) != label:
            raise EdgebError(
                f"label {label!r} has stray space or marks, or is not NFC", f"write it as {clean_label(label)!r}"
            )
        key = same_looking(label)
        if key in seen:
            what = "is listed twice" if seen[key] == label else f"differs from '{seen[key]}' only by case or space"
            raise EdgebError(f"label '{label}' {what}", "merge the two under one name in the log")
        seen[key] = label
    if len(seen) < 2:
        raise EdgebError(f"only {len(seen)} distinct behavior label(s)", "predicting needs at least two behaviors")
