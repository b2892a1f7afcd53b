"""What the systems of this room have in common: each is a class of settings over a language model."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from edge_behavior.baselines.language.backbone import Language
from edge_behavior.baselines.language.fitting import Fit
from edge_behavior.baselines.rate_search import rates_around
from edge_behavior.baselines.system import Budget, Fitted
from edge_behavior.data.dataset import Dataset


@dataclass(frozen=True)
class Rival:
    """A system over a language model; see `baselines.system.System`.

    Attributes:
        language: The language model.
        rates: Learning rates to search; empty for those around the recipe's, or the system's own.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    learns: ClassVar[bool] = True
    # Whether a language model is tuned, or passed through: then its training targets are the recipe's.
    tunes: ClassVar[bool] = True

    language: Language
    rates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.rates:
            object.__setattr__(self, "rates", self.own_rates())

    def own_rates(self) -> tuple[float, ...]:
        """The rates to search where none are given; the middle one comes first."""
        low, middle, high = rates_around(self.language.recipe.a_tuning.learning_rate)
        return middle, low, high

    @property
    def settings(self) -> dict[str, Any]:
        """What a fit depends on besides the recipe; JSON-ready."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("language", "rates")}

    @abstractmethod
    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        """See `System.fit`."""

    def begin(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fit:
        """A fit in the budget's folder, or what is done of it.

        Raises:
            EdgebError: see `Fit`.
        """
        chosen = self.rates[0] if rate is None else rate
        return Fit(self.name, self.language, dataset, history_length, budget, chosen, self.settings)
