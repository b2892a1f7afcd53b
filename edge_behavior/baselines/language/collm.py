"""CoLLM: what a collaborative model knows of the user, mapped into the language model's input.

Zhang et al., "CoLLM: Integrating Collaborative Embeddings into Large Language Models for Recommendation", TKDE 2025.
Theirs are the mapping, a small network into the space of token embeddings, and the two steps: the adapter on text only
("a version of TALLRec" in their words), then the mapping alone, with adapter and collaborative model frozen. The
collaborative model is SASRec, one of those they try; its state before an event stands before that event's line.

Left out: the vector of the item that is asked about, since here no single one is; their variants that train the
collaborative model along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from edge_behavior.baselines.language.fitting import FittedLanguage
from edge_behavior.baselines.language.model import EventVectors, projection
from edge_behavior.baselines.language.rival import Adapted, Collaborative
from edge_behavior.baselines.sequence.model import SasRec
from edge_behavior.baselines.system import Budget
from edge_behavior.data.dataset import Dataset


class MappedStates(EventVectors):
    """The sequence model's state before every event, through a network that is wider inside.

    Args:
        events: The sequence model.
        times: Width of the hidden layer, in widths of a state.
        width: Of the language model's input.
    """

    places = 1

    def __init__(self, events: SasRec, times: int, width: int) -> None:
        super().__init__(events)
        state = events.settings.hidden
        self.mapping = projection(state, times * state, width)

    def vectors(self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See `EventVectors.vectors`."""
        return torch.as_tensor(self.mapping(self.events.states(behavior, event, target))[:, :, None])


@dataclass(frozen=True)
class CoLlm(Adapted, Collaborative):
    """CoLLM.

    Attributes:
        mapped: Show the mapped states; without them this is TALLRec's second step.
        times: Hidden width of the mapping, in widths of a state.
    """

    name: ClassVar[str] = "collm"
    title: ClassVar[str] = "CoLLM"

    mapped: bool = True
    times: Annotated[int, Field(ge=1)] = 10

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> FittedLanguage:
        """Tune the adapter on text, then the mapping."""
        fit = self.begin(dataset, history_length, budget, rate)
        model = fit.model()
        fit.tune(model, "text")
        if not self.mapped:
            return fit.fitted(model)
        events = fit.events(self.sasrec)
        model.freeze_language()
        torch.manual_seed(budget.seed)
        model.show(MappedStates(events.sasrec, self.times, model.inputs.width))
        fit.tune(model, "mapping", events)
        return fit.fitted(model, events)
