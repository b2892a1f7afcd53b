"""Events as rows of numbers for the small transformers: what each position sees, and what it is asked.

SASRec predicts every next event: position i sees event i, its context, and the context of event i+1; before the first
event stands a start symbol, so that a user without a past has a prediction, too. BERT4Rec fills gaps: position i sees
event i with its context, or the mask with the context. No position sees the behavior that it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_behavior.baselines.system import Ints
from edge_behavior.data.dataset import EventTable

# Marks a position without a question, as `cross_entropy` takes it.
IGNORED = -100
# Kinds of context: hour bucket, weekday, place. 0 is no event, and the first place stands for all rare ones.
CONTEXTS = 3
_RARE_PLACE = 1
_DAYS = 7


@dataclass(frozen=True)
class Row:
    """One sequence of T positions.

    Attributes:
        behavior: [T] candidate code, or the special symbol, which is B.
        event: [T, 3] context of the event at the position; 0 where there is none.
        target: [T, 3] context of the event that the position predicts; 0 where the model does not look ahead.
        answers: [T] candidate code asked for, or `IGNORED`.
    """

    behavior: Ints
    event: Ints
    target: Ints
    answers: Ints


@dataclass(frozen=True)
class Columns:
    """A table as numbers.

    Attributes:
        behavior: [N] candidate codes.
        context: [N, 3] hour bucket, weekday and place, all from 1.
    """

    behavior: Ints
    context: Ints


@dataclass(frozen=True)
class ContextVocabulary:
    """Numbers for contexts.

    Attributes:
        hour_bucket: Hours per bucket.
        places: Places with a number of their own.
    """

    hour_bucket: int
    places: tuple[str, ...]

    @classmethod
    def of(cls, train: EventTable, hour_bucket: int, place_events: int) -> ContextVocabulary:
        """Number the places with at least `place_events` training events."""
        counts = np.bincount(train.place, minlength=len(train.places))
        return cls(hour_bucket, tuple(train.places[i] for i in np.flatnonzero(counts >= place_events)))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of each kind, 0 included."""
        return 24 // self.hour_bucket + 1, _DAYS + 1, len(self.places) + _RARE_PLACE + 1

    def columns(self, table: EventTable) -> Columns:
        """The table's events; places are found by name."""
        numbers = {name: i for i, name in enumerate(self.places, _RARE_PLACE + 1)}
        place = np.array([numbers.get(name, _RARE_PLACE) for name in table.places], dtype=np.int64)[table.place]
        hours = table.time.astype("datetime64[h]").astype(np.int64)
        # 1970 began on a Thursday.
        weekday = (hours // 24 + 3) % _DAYS
        context = np.stack([hours % 24 // self.hour_bucket + 1, weekday + 1, place], axis=1)
        return Columns(table.behavior.astype(np.int64), context)


def causal_row(columns: Columns, start: int, stop: int, symbol: int) -> Row:
    """Events `start` to `stop`, exclusive, each asked for after those before it; T = stop - start.

    Args:
        symbol: The number of the start symbol.
    """
    behavior = np.concatenate([[symbol], columns.behavior[start : stop - 1]])
    event = np.concatenate([np.zeros((1, CONTEXTS), np.int64), columns.context[start : stop - 1]])
    return Row(behavior, event, columns.context[start:stop], columns.behavior[start:stop])


def cloze_row(columns: Columns, start: int, stop: int, hidden: NDArray[np.bool_], symbol: int) -> Row:
    """Events `start` to `stop`, exclusive, with some hidden and asked for; T = stop - start.

    Args:
        hidden: [T] which.
        symbol: The number of the mask.
    """
    behavior, context = columns.behavior[start:stop], columns.context[start:stop]
    answers = np.where(hidden, behavior, IGNORED)
    return Row(np.where(hidden, symbol, behavior), context, np.zeros_like(context), answers)


def asked_only(row: Row, asked: NDArray[np.bool_]) -> Row:
    """The same row with questions at some positions [T] only."""
    return replace(row, answers=np.where(asked, row.answers, IGNORED))


def padded(rows: Sequence[Row]) -> dict[str, NDArray[np.int64] | NDArray[np.bool_]]:
    """Rows as a batch, padded at the end: arrays [n, T, …] by the names of `Row`, and `present` [n, T]: no padding."""
    lengths = np.array([len(row.behavior) for row in rows])
    longest = int(lengths.max())

    def joined(name: str, fill: int) -> NDArray[np.int64]:
        found = [getattr(row, name) for row in rows]
        whole = np.full((len(rows), longest, *found[0].shape[1:]), fill, dtype=np.int64)
        for i, values in enumerate(found):
            whole[i, : len(values)] = values
        return whole

    named = {name: joined(name, IGNORED if name == "answers" else 0) for name in Row.__dataclass_fields__}
    return {**named, "present": np.arange(longest) < lengths[:, None]}


def training_stretches(table: EventTable, length: int, targets: int, seed: int) -> tuple[Ints, Ints]:
    """Consecutive events [start, stop) of one user, in random order, until they hold `targets` events (0: all).

    Every event is in one stretch; the last is cut so that there are no more targets than asked for.

    Args:
        length: Most events per stretch.
    """
    starts = np.concatenate(
        [np.arange(a, b, length) for a, b in zip(table.target_starts, table.user_offsets[1:], strict=True)]
        or [np.empty(0, np.int64)]
    ).astype(np.int64)
    stops = np.minimum(starts + length, table.user_offsets[table.user_of(starts) + 1])
    order = np.random.default_rng(seed).permutation(len(starts))
    starts, stops = starts[order], stops[order]
    if targets:
        before = np.cumsum(stops - starts) - (stops - starts)
        kept = before < targets
        starts, stops = starts[kept], np.minimum(stops, starts + targets - before)[kept]
    return starts, stops
