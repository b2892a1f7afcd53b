"""What the systems of this room have in common: each is a class of settings over a language model.

The defaults of settings suit a comparison, which has all systems take its recipe's adapter and batches; what the
authors state is in train/configs/systems (see `baselines.settings`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from edge_behavior.baselines.language.backbone import Language
from edge_behavior.baselines.language.fitting import Fit
from edge_behavior.baselines.rate_search import rates_around
from edge_behavior.baselines.sequence.config import RATES, SequenceConfig
from edge_behavior.baselines.sequence.fitting import EventModel, FittedSequence, MakeData, fit_events
from edge_behavior.baselines.settings import plain, settings_of
from edge_behavior.baselines.system import Budget, Fitted, Rates
from edge_behavior.data.dataset import Dataset
from edge_behavior.train.recipe import LoraSettings


@dataclass(frozen=True)
class Rival:
    """A system over a language model; see `baselines.system.System`.

    Attributes:
        language: The language model.
        rates: Learning rates to search; empty for those around the recipe's, or for SASRec's where none is tuned.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    learns: ClassVar[bool] = True
    # Whether a language model is tuned, or passed through: then its training targets are the recipe's.
    tunes: ClassVar[bool] = True
    # Why no bundle can hold it; empty where one can.
    unshipped: ClassVar[str] = ""

    language: Language
    rates: Rates = ()

    def __post_init__(self) -> None:
        if not self.rates:
            low, middle, high = rates_around(self.language.recipe.a_tuning.learning_rate)
            object.__setattr__(self, "rates", (middle, low, high) if self.tunes else RATES)

    @property
    def settings(self) -> dict[str, Any]:
        """What a fit depends on besides the recipe; JSON-ready."""
        return {name: plain(value) for name, value in settings_of(self).items() if name != "rates"}

    @abstractmethod
    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        """See `System.fit`."""

    def begin(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fit:
        """A fit in the budget's folder, or what is done of it.

        Raises:
            EdgebError: see `Fit`.
        """
        return Fit(self.name, self.tuned, dataset, history_length, budget, self.rate(rate), self.settings)

    @property
    def tuned(self) -> Language:
        """The language model as this system tunes it."""
        return self.language

    def rate(self, asked: float | None) -> float:
        """The learning rate that was asked for, or the likeliest."""
        return self.rates[0] if asked is None else asked


@dataclass(frozen=True)
class Adapted(Rival):
    """A rival with an adapter on the language model.

    Attributes:
        lora: The adapter; None for the recipe's.
    """

    lora: LoraSettings | None = None

    @property
    def tuned(self) -> Language:
        """See `Rival.tuned`: with the system's own adapter, where it has one."""
        if self.lora is None:
            return self.language
        return replace(self.language, recipe=self.language.recipe.model_copy(update={"lora": self.lora}))


@dataclass(frozen=True)
class Collaborative(Rival):
    """A rival that shows a language model what a SASRec knows.

    Attributes:
        sasrec: Of that SASRec, which is fitted to the same targets.
    """

    unshipped: ClassVar[str] = "its prompts hold vectors of a sequence model, and those of a bundle are text"

    sasrec: SequenceConfig = field(default_factory=SequenceConfig)


@dataclass(frozen=True)
class EventRival(Rival):
    """A rival that is a network over events, trained as SASRec is.

    Attributes:
        config: Of the network and its training.
    """

    config: SequenceConfig = field(default_factory=SequenceConfig)

    def fit_network(
        self,
        build: Callable[..., Any],
        dataset: Dataset,
        history_length: int,
        budget: Budget,
        rate: float | None,
        data: MakeData | None = None,
    ) -> FittedSequence:
        """Train a network until the loss on validation windows rises; see `fit_events`.

        Args:
            build: As in `EventModel`.
            dataset, history_length, budget, rate: As in `System.fit`.
            data: As in `EventModel`.
        """
        record = {"settings": self.settings, "backbone": self.language.identity}
        model = EventModel(self.name, self.title, "sasrec", self.config, build, record, data, self.language.source)
        return fit_events(model, dataset, history_length, budget, self.rate(rate))
