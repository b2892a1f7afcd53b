"""The goals of the LiteRT engine beside llama.cpp, and whether a table meets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from edge_behavior.bench.engines.result import Table

OURS, REFERENCE = "q8.tflite", "q4_0.gguf"
# Times of int8 on LiteRT over Q4_0's on llama.cpp, by scenario.
RATIOS = {"empty": 0.5, "session": 0.8}
# Times of a prediction over the engine's same calls bare, of every bundle.
OVER_BARE = {"session": 1.10, "empty": 1.15}
_WORDS = {"empty": "from an empty cache", "session": "a session's prediction"}


@dataclass(frozen=True)
class Goal:
    """A goal: what it is about, its limit, and what was measured (each None where it was not)."""

    what: str
    limit: float | None
    measured: float | None
    at_most: bool = True

    @property
    def met(self) -> bool | None:
        """Whether it is; None where nothing was measured."""
        if self.measured is None or self.limit is None:
            return None
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "met": self.met}


def goals(table: Table) -> list[Goal]:
    """All goals, held against a table whose reference is REFERENCE."""
    return [*_beside_llama(table), *_beside_bare(table)]


def _beside_llama(table: Table) -> Iterator[Goal]:
    rows = {row.name: row for row in table.bundles}
    ours, theirs = rows.get(OURS), rows.get(REFERENCE)
    both = ours is not None and theirs is not None and table.reference == REFERENCE
    for scenario, limit in RATIOS.items():
        measured = ours.costs[scenario].over_reference.value if ours is not None and both else None
        yield Goal(f"first candidate, {_WORDS[scenario]}: {OURS} over {REFERENCE}", limit, measured)
    accuracy, least = (None if row is None or row.accuracy is None else row.accuracy.value for row in (ours, theirs))
    yield Goal(f"accuracy of {OURS}, at least {REFERENCE}'s", least, accuracy, at_most=False)


def _beside_bare(table: Table) -> Iterator[Goal]:
    for row in table.bundles:
        for scenario, limit in OVER_BARE.items():
            measured = row.costs[scenario].over_bare.value
            yield Goal(f"{row.name}, {_WORDS[scenario]}: over the same calls bare", limit, measured)
