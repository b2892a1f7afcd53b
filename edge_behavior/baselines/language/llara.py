"""LLaRA: every past behavior as its text and as a projected embedding of a sequence model.

Liao et al., "LLaRA: Large Language-Recommendation Assistant", SIGIR 2024. Theirs are the hybrid prompt, where a
projection of SASRec's item embedding follows the item's text, and the curriculum: a batch is hybrid with a probability
that rises evenly to one over the training, and text-only otherwise. Adapter and projection are trained together,
SASRec is frozen.

Left out: embeddings behind the listed candidates, which stand in the static part that all prompts share; the
placeholder token that text-only prompts have in their code; their weight decay. Before the first event stands SASRec's
start symbol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn import functional as F

from edge_behavior.baselines.language.fitting import FittedLanguage
from edge_behavior.baselines.language.model import EventVectors, projection
from edge_behavior.baselines.language.rival import Adapted, Collaborative
from edge_behavior.baselines.sequence.model import SasRec
from edge_behavior.baselines.system import Budget
from edge_behavior.data.dataset import Dataset


class ProjectedItems(EventVectors):
    """The sequence model's embedding of the behavior before every line, projected.

    Args:
        events: The sequence model.
        width: Of the language model's input, and of the hidden layer.
    """

    places = 1

    def __init__(self, events: SasRec, width: int) -> None:
        super().__init__(events)
        self.projection = projection(events.settings.hidden, width, width)

    def vectors(self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See `EventVectors.vectors`."""
        return torch.as_tensor(self.projection(F.embedding(behavior, self.events.item_vectors()))[:, :, None])


@dataclass(frozen=True)
class Llara(Adapted, Collaborative):
    """LLaRA.

    Attributes:
        curriculum: Probability of a hybrid batch at the end of training. 0 shows text only, in predictions, too:
            TALLRec's second step.
    """

    name: ClassVar[str] = "llara"
    title: ClassVar[str] = "LLaRA"

    curriculum: Annotated[float, Field(ge=0, le=1)] = 1.0

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> FittedLanguage:
        """Tune adapter and projection along the curriculum."""
        fit = self.begin(dataset, history_length, budget, rate)
        model, events = fit.model(), fit.events(self.sasrec)
        torch.manual_seed(budget.seed)
        model.show(ProjectedItems(events.sasrec, model.inputs.width))
        fit.tune(model, "hybrid", events if self.curriculum else None, self.curriculum)
        return fit.fitted(model, events if self.curriculum else None)
