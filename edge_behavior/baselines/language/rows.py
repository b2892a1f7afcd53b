"""Training rows with places for vectors: the ids of a prompt or stretch, and the events as a sequence model sees them.

Before the line of every event, and before the question, stand `places` vectors. What they say is up to the system; they
are made of the row of events (`sequence.inputs.Row`) whose position i knows the events before line i, and the context
of its own event. So a loss at every event of a stretch stays honest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edge_behavior.baselines.sequence.inputs import Columns, causal_row, padded
from edge_behavior.train.rows.lazy import IGNORED, Row, Rows
from edge_behavior.train.rows.samples import BehaviorRows

# Further keys of a row: where lines begin, and which events (table, first, the one after the last).
_LINES, _EVENTS = "lines", "events"


def with_places(
    ids: Sequence[int], lines: Sequence[int], places: int, first: int, fill: int | None = None
) -> list[int]:
    """A sequence with `places` marks before each of some positions, numbered on from `first`, or all `fill`.

    Args:
        ids: Of the sequence.
        lines: Where to insert, ascending.
        places: Marks before each.
        first: Id of the first mark.
        fill: What stands there instead, as in labels.
    """
    found, before = list[int](), 0
    for number, at in enumerate(lines):
        mark = first + number * places
        found += [*ids[before:at], *(range(mark, mark + places) if fill is None else [fill] * places)]
        before = at
    return [*found, *ids[before:]]


class EventRows(Rows):
    """Behavior rows that say where the lines of their events begin, and which events those are.

    Args:
        rows: The rows.
        places: Vectors before every line.
        table: Which of the collator's tables the events are of.
    """

    def __init__(self, rows: BehaviorRows, places: int, table: int) -> None:
        self._rows, self._table = rows, table
        self.lengths = (rows.lengths + places * (rows.stops - rows.starts)).astype(np.int32)
        self.labelled = rows.labelled

    def read(self, index: int) -> Row:
        """Make one row."""
        events = [self._table, int(self._rows.starts[index]), int(self._rows.stops[index])]
        return {**self._rows.read(index), _LINES: self._rows.lines(index), _EVENTS: events}


class Curriculum(Rows):
    """Rows whose batches show vectors more and more often: LLaRA's way from text-only prompts to hybrid ones.

    Batch i of n has vectors with probability `end` · (i + 1) / n.

    Args:
        rows: Rows of all epochs, in batches.
        batch_size: Rows of a batch.
        end: Probability at the last batch.
        seed: Of the draws.
    """

    def __init__(self, rows: Rows, batch_size: int, end: float, seed: int) -> None:
        self._rows, self._batch = rows, batch_size
        self.lengths, self.labelled = rows.lengths, rows.labelled
        batches = -(-len(rows) // batch_size)
        rising = end * np.arange(1, batches + 1) / max(1, batches)
        self.hybrid = np.random.default_rng(seed).random(batches) < rising

    def read(self, index: int) -> Row:
        """Make one row, with vectors or without."""
        row = self._rows.read(index)
        if self.hybrid[index // self._batch]:
            return row
        return {name: values for name, values in row.items() if name not in (_LINES, _EVENTS)}


@dataclass(frozen=True)
class Collate:
    """Makes a batch of rows: padded ids with marks, labels, and the events that the vectors are made of.

    Attributes:
        vocabulary: The id of the first vector.
        places: Vectors before every line.
        columns: The tables of events that rows may name.
        symbol: The number of the sequence model's start symbol.
    """

    vocabulary: int
    places: int = 0
    columns: Sequence[Columns] = ()
    symbol: int = 0

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """`input_ids`, `attention_mask` and `labels` [n, L]; with vectors `events`, see `sequence.inputs.padded`."""
        ids, labels, events = [], [], []
        first = self.vocabulary
        for row in rows:
            lines = row.get(_LINES, []) if self.places else []
            ids.append(with_places(row["input_ids"], lines, self.places, first))
            labels.append(with_places(row["labels"], lines, self.places, 0, IGNORED))
            first += self.places * len(lines)
            if lines:
                table, start, stop = row[_EVENTS]
                events.append(causal_row(self.columns[table], start, stop, self.symbol))
        longest = max(map(len, ids))
        batch = {
            "input_ids": _padded(ids, longest, 0),
            "attention_mask": _padded([[1] * len(one) for one in ids], longest, 0),
            "labels": _padded(labels, longest, IGNORED),
        }
        return {**batch, "events": event_tensors(events)} if events else batch


def event_tensors(rows: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Rows of events as a batch, without what is asked."""
    return {name: torch.from_numpy(values) for name, values in padded(rows).items() if name != "answers"}


def _padded(rows: Sequence[Sequence[int]], length: int, fill: int) -> torch.Tensor:
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])
