"""Training rows that are made when they are read.

A row is what a trainer takes as one example: token ids, labels that mask what carries no loss and, where labels weigh
differently, the behavior code (`classes`) that each label token is of. A run holds all its
epochs at a few bytes per row, its position and length; token ids exist only for the batch being trained on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Row = dict[str, list[int]]
IGNORED = -100
# In a row's `classes`: a token of no behavior.
NO_CLASS = -1


class Rows(ABC):
    """Rows whose lengths are known before they are read; a map-style dataset for torch.

    Attributes:
        lengths: int32 [n], tokens of each row.
        labelled: int32 [n], tokens with a loss.
    """

    lengths: NDArray[np.int32]
    labelled: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int, /) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.read(index)

    def __iter__(self) -> Iterator[Row]:
        return (self.read(i) for i in range(len(self)))

    @abstractmethod
    def read(self, index: int) -> Row:
        """Make one row."""


class RowList(Rows):
    """A few rows, held in memory."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.lengths = np.array([len(row["input_ids"]) for row in rows], dtype=np.int32)
        self.labelled = np.array([sum(i != IGNORED for i in row["labels"]) for row in rows], dtype=np.int32)

    def read(self, index: int) -> Row:
        """One of the rows."""
        return self._rows[index]


class JoinedRows(Rows):
    """The rows of several parts, one part after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.labelled = np.concatenate([part.labelled for part in parts])

    def read(self, index: int) -> Row:
        """Make one row, of the part it is in."""
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[part].read(index - int(self._starts[part]))


class OrderedRows(Rows):
    """Rows in another order, in which some may occur twice."""

    def __init__(self, rows: Rows, order: ArrayLike) -> None:
        self._rows, self._order = rows, np.asarray(order, dtype=np.int32)
        self.lengths, self.labelled = rows.lengths[self._order], rows.labelled[self._order]

    def read(self, index: int) -> Row:
        """Make the row at this position of the order."""
        return self._rows.read(int(self._order[index]))


def joined(epochs: Sequence[Rows | Sequence[Row]]) -> Rows:
    """Rows of all epochs, one after the other."""
    return JoinedRows([epoch if isinstance(epoch, Rows) else RowList(epoch) for epoch in epochs])
