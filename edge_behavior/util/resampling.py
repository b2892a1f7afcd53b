"""Resampling units: which windows vary together, so that bootstraps draw and folds leave out whole units.

Knows windows by number only; `data.resampling` decides which belong together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Resampled:
    """The units behind a report's intervals or folds.

    Attributes:
        split: How the dataset was split: `users` or `time`.
        unit: `users`, `groups` or `day_blocks`.
        count: Number of units.
        days: Length of a block of days; None for other units.
    """

    split: str
    unit: str
    count: int
    days: int | None = None

    @property
    def text(self) -> str:
        """The units in words that follow a number or "over": users, groups, blocks of 7 days."""
        if self.unit != "day_blocks":
            return self.unit
        return "blocks of a day" if self.days == 1 else f"blocks of {self.days} days"

    @property
    def counted(self) -> str:
        """How many units of what: 12 users, 1 group, 26 blocks of 7 days."""
        name, _, rest = self.text.partition(" ")
        name = name.removesuffix("s") if self.count == 1 else name
        return f"{self.count:,} {name} {rest}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)


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

    def summary(self) -> Resampled:
        """The units as a report names them."""
        return Resampled(self.split, self.unit, self.count, self.days)
