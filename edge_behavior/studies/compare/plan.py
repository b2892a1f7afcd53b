"""What a comparison has to fit and score: every system with its seeds, and the points of its sweeps.

Knows no system but by what it says of itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.studies.compare.folder import Asked
from edge_behavior.studies.compare.windows import window_sets

# Per sweep: its title, the axis, and the values that are taken where none are given.
SWEEPS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "targets": ("Training size (Figure 4)", "training targets", ("500", "1000", "2000", "5000")),
    "few_shot": ("Samples per behavior F of stage 2 (Figure 3b)", "samples per behavior", ("1", "3", "9", "20")),
    "size": ("Backbones (Figure 3a)", "backbone", ()),
}
# What a system scores first; a point of a sweep nothing else.
FIRST_SETS = ("test", "validation")


@dataclass(frozen=True)
class Point:
    """A value of a sweep."""

    sweep: str
    value: str

    @property
    def shown(self) -> str:
        """As a plot's axis has it."""
        return PurePath(self.value).name if self.sweep == "size" else self.value


@dataclass(frozen=True)
class Entry:
    """A system at one point, to be fitted once per seed.

    Attributes:
        system: Its name.
        point: Where in a sweep; None for the system as it is.
        seeds: Of its fits.
        sets: The sets of windows to score.
    """

    system: str
    point: Point | None
    seeds: tuple[int, ...]
    sets: tuple[str, ...]

    @property
    def name(self) -> str:
        """As files are called."""
        if self.point is None:
            return self.system
        return f"{self.system}@{self.point.sweep}={re.sub(r'[^A-Za-z0-9._-]+', '_', self.point.shown)}"


def entries(asked: Asked) -> list[Entry]:
    """Everything to score, all systems before any sweep."""
    sets, first = window_sets(asked.cold), asked.seeds[:1]
    found = [Entry(name, None, asked.seeds_of(name), sets) for name in asked.systems]
    for sweep, values in asked.sweeps.items():
        for value in values:
            systems = [name for name in asked.systems if name in asked.swept[sweep]]
            found += [Entry(name, Point(sweep, value), first, FIRST_SETS) for name in systems]
    return found


def parse_sweeps(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`NAME` or `NAME=V1,V2,…` as values by sweep.

    Raises:
        EdgebError: an unknown sweep, or values that are missing or no numbers.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, listed = text.partition("=")
        if name not in SWEEPS:
            raise EdgebError(f"--sweep {text}: no sweep '{name}'", nearest(name, SWEEPS))
        values = tuple(value.strip() for value in listed.split(",") if value.strip()) or SWEEPS[name][2]
        if not values:
            raise EdgebError(f"--sweep {name}: no values", f"write --sweep {name}=BACKBONE,BACKBONE")
        if name != "size" and not all(value.isdecimal() and int(value) > 0 for value in values):
            raise EdgebError(f"--sweep {text}: not all are whole numbers above 0", f"for example {name}=500,1000")
        found[name] = values
    return found


def parse_cold(text: str) -> tuple[int, ...]:
    """`K1,K2,…` as numbers of known events, ascending; empty for `none`.

    Raises:
        EdgebError: not whole numbers.
    """
    if text.strip() == "none":
        return ()
    values = [value.strip() for value in text.split(",") if value.strip()]
    if not values or not all(value.isdecimal() for value in values):
        raise EdgebError(f"--cold {text}: not whole numbers", "for example --cold 0,5, or --cold none")
    return tuple(sorted({int(value) for value in values}))
