"""Resampling units: which windows vary together, so that bootstraps draw and folds leave out whole units.

Knows windows by number only; `data.resampling` decides which belong together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Resampling:
    """The units of some windows.

    Attributes:
        codes: [n] number of each window's unit.
        unit: `users`, `groups` or `day_blocks`.
        days: Length of a block of days; None for other units.
    """

    codes: NDArray[np.int64]
    unit: str = "users"
    days: int | None = None

    @property
    def count(self) -> int:
        """Number of units."""
        return len(np.unique(self.codes))

    @property
    def split(self) -> str:
        """How the dataset was split: blocks of days come from a split by `time`, other units from one by `users`."""
        return "time" if self.unit == "day_blocks" else "users"

    def take(self, rows: NDArray[np.bool_]) -> Resampling:
        """The units of some of the windows."""
        return replace(self, codes=self.codes[rows])

    def facts(self) -> dict[str, Any]:
        """JSON-ready, for reports: `split`, `unit`, `count` and `days`."""
        return {"split": self.split, "unit": self.unit, "count": self.count, "days": self.days}


def units_text(facts: Mapping[str, Any]) -> str:
    """What the units are, in words that follow a number or "over": users, groups, blocks of 7 days.

    Args:
        facts: As `Resampling.facts` gives them.
    """
    if facts["unit"] != "day_blocks":
        return str(facts["unit"])
    return "blocks of a day" if facts["days"] == 1 else f"blocks of {facts['days']} days"


def counted_units(facts: Mapping[str, Any]) -> str:
    """How many units of what: 12 users, 1 group, 26 blocks of 7 days."""
    name, _, rest = units_text(facts).partition(" ")
    name = name.removesuffix("s") if facts["count"] == 1 else name
    return f"{facts['count']:,} {name} {rest}".rstrip()
