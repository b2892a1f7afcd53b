"""Events as tokens: what a sequence model reads of the segments of the `stream` layout.

An event is the numbers of its hour bucket, weekday and place, then that of its behavior; a question ends before the
behavior. A prompt begins with the start token. Texts that hold no event (the task, the end of a line) have no tokens.
Knows no weights; the phone's `EventTokens` is the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.sequence_file import CONTEXTS, SequenceShape
from edge_behavior.core.events import UNKNOWN_PLACE
from edge_behavior.core.population import text_hash
from edge_behavior.core.prompts import DAYS

_CONTEXT = re.compile(rf"\(({'|'.join(DAYS)}) ([0-9]{{1,2}})(?:, ([^,]*))?,")
# The number of a place that is not known.
_OTHER_PLACE = 1

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Positions:
    """A prompt as the network reads it: T positions, the start among them.

    Attributes:
        behavior: [T] candidate codes; B for the start.
        event: [T, 3] hour bucket, weekday and place of the position's event; 0 where there is none.
        target: [T, 3] of the event that comes after it.
    """

    behavior: Ints
    event: Ints
    target: Ints


class EventTokens:
    """The vocabulary: codes of the candidates, the start, then numbers of hour buckets, weekdays and places.

    Args:
        shape: The model's sizes.
        labels: [B] by code.
        places: [P] hashes of the known places, by number.
    """

    def __init__(self, shape: SequenceShape, labels: Sequence[str], places: NDArray[np.uint64]) -> None:
        self._bucket, self._codes = shape.hour_bucket, {f" {label}": code for code, label in enumerate(labels)}
        self.start = shape.candidates
        sizes = [size - 1 for size in shape.contexts] if self._bucket else []
        # Token of each kind's number n: its base + n.
        self._bases = [self.start + sum(sizes[:i]) for i in range(len(sizes))]
        self.size = self.start + 1 + sum(sizes)
        # Of equal names the first, as on the phone.
        self._places = {int(places[i]): _OTHER_PLACE + 1 + i for i in reversed(range(len(places)))}

    @property
    def per_event(self) -> int:
        """Tokens of an event."""
        return 1 + len(self._bases)

    def encode(self, text: str) -> list[int]:
        """Ids of one segment."""
        code = self._codes.get(text)
        if code is not None:
            return [code]
        found = _CONTEXT.fullmatch(text) if self._bucket else None
        if found is None or int(found[2]) > 23:
            return []
        place = UNKNOWN_PLACE if found[3] is None else found[3]
        numbers = (
            int(found[2]) // self._bucket + 1,
            DAYS.index(found[1]) + 1,
            self._places.get(text_hash(place), _OTHER_PLACE),
        )
        return [base + number for base, number in zip(self._bases, numbers, strict=True)]

    def positions(self, ids: Sequence[int]) -> Positions:
        """What the network reads of a prompt; without its start token it begins with the first event.

        A context belongs to the behavior after it, and is what the position before it is asked for.
        """
        behaviors, events, targets = list[int](), list[list[int]](), list[list[int]]()
        pending = [0] * len(CONTEXTS)
        for token in ids:
            if token > self.start:
                kind = max(i for i, base in enumerate(self._bases) if token > base)
                pending[kind] = token - self._bases[kind]
                continue
            if targets:
                targets[-1] = pending
            behaviors.append(token)
            events.append([0] * len(CONTEXTS) if token == self.start else pending)
            targets.append([0] * len(CONTEXTS))
            pending = [0] * len(CONTEXTS)
        if not behaviors:
            behaviors, events, targets = [self.start], [[0] * len(CONTEXTS)], [pending]
        targets[-1] = pending
        return Positions(*(np.array(rows, dtype=np.int64) for rows in (behaviors, events, targets)))
