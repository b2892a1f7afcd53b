"""In which order the prompt of each training row lists the candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.encoding import PromptEncoder

# Random orders that rows draw from: enough that no place in the list tells of a label, few enough to know the tokens
# of each before any row is made.
SHUFFLES = 256


class Orders:
    """The layout's own order for every row, or random ones.

    Attributes:
        which: int64 [n], the number of each row's order.
        static: int64 [n], tokens of each row's static part.
    """

    def __init__(self, encoder: PromptEncoder, rows: int, seed: int | None) -> None:
        """Draw an order for each row.

        Args:
            encoder: Of the rows.
            rows: n.
            seed: Of the random orders; None takes the layout's own.
        """
        self._lists: list[tuple[str, ...] | None] = [None]
        self.which: NDArray[np.int64] = np.zeros(rows, dtype=np.int64)
        if seed is not None:
            # Apart from the generator that draws the rows, which are the same in any order of the candidates.
            rng = np.random.default_rng([seed, SHUFFLES])
            labels = encoder.candidates.labels
            count = min(SHUFFLES, rows)
            self._lists = [tuple(labels[i] for i in rng.permutation(len(labels))) for _ in range(count)]
            self.which = rng.integers(count, size=rows)
        tokens = np.array([len(encoder.static_for(listed)) for listed in self._lists], dtype=np.int64)
        self.static = tokens[self.which]

    def __len__(self) -> int:
        return len(self._lists)

    def order(self, number: int) -> tuple[str, ...] | None:
        """All labels in an order of `which`; None for the layout's own."""
        return self._lists[number]

    def of(self, row: int) -> tuple[str, ...] | None:
        """All labels in the order of a row; None for the layout's own."""
        return self._lists[int(self.which[row])]
