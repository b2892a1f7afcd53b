"""SASRec and BERT4Rec as systems of a comparison. Imports torch only to fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from edge_behavior.baselines.sequence.config import RATES, SequenceConfig
from edge_behavior.baselines.sequence.fitting import EventModel, FittedSequence, fit_events
from edge_behavior.baselines.system import Budget, Rates
from edge_behavior.data.dataset import Dataset

if TYPE_CHECKING:
    from edge_behavior.baselines.sequence.model import EventTransformer

TITLES = {"sasrec": "SASRec", "bert4rec": "BERT4Rec"}


@dataclass(frozen=True)
class SequenceSystem:
    """`sasrec` or `bert4rec`.

    Attributes:
        config: Shape and training; `context=False` is the published model.
        rates: Learning rates to search.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    learns: ClassVar[bool] = True

    architecture: str
    config: SequenceConfig = field(default_factory=SequenceConfig)
    rates: Rates = RATES

    @property
    def name(self) -> str:
        """As `--systems` takes it."""
        return self.architecture if self.config.context else f"{self.architecture}_published"

    @property
    def title(self) -> str:
        """As tables show it."""
        return TITLES[self.architecture] + ("" if self.config.context else " (behaviors only)")

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> FittedSequence:
        """Train on stretches of L+1 events until the loss on validation windows rises; see `fit_events`."""

        def build(*shape: Any) -> EventTransformer:
            from edge_behavior.baselines.sequence.model import Bert4Rec, SasRec

            return {"sasrec": SasRec, "bert4rec": Bert4Rec}[self.architecture](*shape)

        model = EventModel(self.name, self.title, self.architecture, self.config, build)
        return fit_events(model, dataset, history_length, budget, self.rates[0] if rate is None else rate)
