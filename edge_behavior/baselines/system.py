"""What every system of a comparison offers: it is fitted to a dataset, then gives log-probabilities at windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.errors import EdgebError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
# Learning rates to search, the likeliest first.
Rates = tuple[Annotated[float, Field(gt=0, lt=1)], ...]
# Validation windows for what scores thousands in a second; a recipe has fewer to save a language model's time.
SMALL_VALIDATION = 2_000


class FailedTrainingError(EdgebError):
    """Training failed at the rate that was asked for: its loss diverged or was no number."""


@dataclass(frozen=True)
class Budget:
    """What fitting may use; for systems that learn.

    Attributes:
        targets: Training targets, at most; 0 for all.
        validation_targets: Validation targets for early stopping and for counters' settings, at most.
        seed: Of initial weights, of the order of training and of the choice of targets.
        folder: Where resumable work may be kept; the caller deletes it when done.
    """

    targets: int
    validation_targets: int
    seed: int
    folder: Path


class Fitted(Protocol):
    """A system fitted to a dataset: scores windows."""

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """[n, B] log-probabilities over all candidates at windows, each row summing to 1 as probabilities.

        Args:
            table: The events the windows are of.
            targets: [n] positions of the windows' target events, in any order.
            known: Cold start: only this many events before the target count as seen, also fewer than the history
                length, also 0. None: all that the system uses.
        """

    def close(self) -> None:
        """Free what the system holds."""


@runtime_checkable
class Reporting(Protocol):
    """A fitted system whose answers say more than their scores."""

    def report(self) -> dict[str, Any]:
        """Of the latest `log_probs`: `kind` of the answers, how many `windows`, how many answers `outside` the list."""


@dataclass(frozen=True)
class Cost:
    """What a fitted system is, and what it took to fit.

    Attributes:
        parameters: Weights that answer, a language model's among them.
        bytes: Of these weights, as they were held.
        tokens: Positions in training batches, summed over all steps; None where nobody counted.
        seconds: Of training and of looks at validation windows; None where nobody timed them.
    """

    parameters: int
    bytes: int
    tokens: int | None
    seconds: float | None


@runtime_checkable
class CostedFit(Fitted, Protocol):
    """A fitted system that has weights."""

    def cost(self) -> Cost:
        """See `Cost`; once it has answered, since weights may be loaded only then."""


@runtime_checkable
class Shipping(Protocol):
    """A fitted system that may become a bundle."""

    def keep(self, folder: Path) -> bool:
        """Write what an export needs of it into a folder, which is made; False, and nothing, where it cannot ship."""


class System(Protocol):
    """A system that can be fitted."""

    @property
    def name(self) -> str:
        """As `--systems` takes it."""

    @property
    def title(self) -> str:
        """As tables show it."""

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates to search; empty where nothing is searched."""

    @property
    def needs(self) -> frozenset[str]:
        """What a log must have, of `places` and `time`; usually empty."""

    @property
    def learns(self) -> bool:
        """False where seeds do not change it."""

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        """Fit to the dataset's training part, stopping by its validation part.

        Args:
            history_length: L, events that a window shows.
            rate: The learning rate; None for the first of `rates`.

        Raises:
            EdgebError: the log lacks what the system needs, or the budget's folder is of another fit.
        """
