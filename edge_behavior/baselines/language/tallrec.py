"""TALLRec: a language model tuned on general instructions, then on recommendation.

Bao et al., "TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model with Recommendation",
RecSys 2023. Theirs are the two steps, with one LoRA adapter through both: first instruction data of any kind (Alpaca's
52,000 there), then behaviors of all frequencies.

Left out: their question, whether a user likes one named item, answered yes or no. Here the next behavior is asked for,
and every candidate scored. Instead of Alpaca the first step has the conversations of the recipe (`a_tuning.aux_path`;
Alpaca's file is read as it is), or generated ones. Their adapter is on queries and values only; here it is the
recipe's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from edge_behavior.baselines.language.fitting import FittedLanguage
from edge_behavior.baselines.language.rival import Adapted
from edge_behavior.baselines.system import Budget
from edge_behavior.data.dataset import Dataset


@dataclass(frozen=True)
class TallRec(Adapted):
    """TALLRec.

    Attributes:
        conversations: Of the first step, once each; 0 leaves it out.
    """

    name: ClassVar[str] = "tallrec"
    title: ClassVar[str] = "TALLRec"

    conversations: Annotated[int, Field(ge=0)] = 1_000

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> FittedLanguage:
        """Tune on general data, then on behaviors."""
        fit = self.begin(dataset, history_length, budget, rate)
        model = fit.model()
        fit.general(model, self.conversations)
        fit.tune(model, "text")
        return fit.fitted(model)
