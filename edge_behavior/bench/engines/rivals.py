"""Others on the same weights, timed in the rounds of a table's bundles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

from edge_behavior.bench.engines.contender import Contender
from edge_behavior.bench.engines.windows import Window
from edge_behavior.errors import EdgebError


class Rival(Protocol):
    """Another way to an answer.

    Attributes:
        name: What it is, for the table.
        on: The file it is run on.
        scenario: What of edgeb's it does the work of, one of `SCENARIOS`.
        every: It is timed in every so many rounds.
        firsts: Code of its first candidate by number of the window, where it is known.
    """

    name: str
    on: str
    scenario: str
    every: int
    firsts: dict[int, int]

    def time(self, i: int) -> float:
        """Answer window `i` once; milliseconds."""

    def close(self) -> None:
        """Free memory and processes."""


# From the open bundles by name, for prompts as token ids, and the windows.
RivalMaker = Callable[[Mapping[str, Contender], Sequence[Window]], Rival]


class Rivals:
    """All rivals of a table. Use as a context manager.

    Args:
        makers: Make each; one that raises EdgebError takes no part, and its reason is noted.
        contenders: The open bundles by name.
        windows: What is asked.

    Attributes:
        notes: Who takes no part, and why.
    """

    def __init__(
        self, makers: Sequence[RivalMaker], contenders: Mapping[str, Contender], windows: Sequence[Window]
    ) -> None:
        self.notes: list[str] = []
        self._rivals: list[Rival] = []
        self._samples: list[dict[int, float]] = []
        with ExitStack() as stack:
            for make in makers:
                try:
                    rival = make(contenders, windows)
                except EdgebError as error:
                    self.notes.append(f"not compared: {error}")
                    continue
                stack.callback(rival.close)
                self._rivals.append(rival)
                self._samples.append({})
            self._stack = stack.pop_all()

    def turn(self, i: int) -> None:
        """Ask those whose turn it is."""
        for rival, samples in zip(self._rivals, self._samples, strict=True):
            if i % rival.every == 0:
                samples[i] = rival.time(i)

    def samples(self) -> Iterator[tuple[Rival, Mapping[int, float]]]:
        """Each rival with its milliseconds by number of the window."""
        yield from zip(self._rivals, self._samples, strict=True)

    def __enter__(self) -> Rivals:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
