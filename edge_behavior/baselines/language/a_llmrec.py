"""A-LLMRec: a collaborative model and the labels' texts meet in a small network, whose vectors prompt a frozen LM.

Kim et al., "Large Language Models meet Collaborative Filtering: An Efficient All-round LLM-based Recommender System",
KDD 2024. Theirs are the two stages. First, an encoder and a decoder for SASRec's item embeddings and a pair for the
texts' embeddings, trained on three losses: matching (both encodings of an item are close), reconstruction (each decoder
gives back what went in, weighed .5 and .2) and rating (SASRec's state of the user predicts the decoded next item).
Second, projections of the joint embeddings and of the user's state into the language model's input, which are all that
is trained there: the language model stays frozen, without an adapter. An item's vector follows its text; the user's
stands before the question.

Other than there: texts are embedded by the backbone, not by a Sentence-BERT that is tuned along; rating is a full
softmax over the candidates, not one drawn negative; listed candidates have no vectors, since they stand in the static
part that all prompts share; the user's state stands before every line, each of which is a question in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from edge_behavior.baselines.language.fitting import Fit, FittedLanguage
from edge_behavior.baselines.language.model import EventVectors
from edge_behavior.baselines.language.rival import Collaborative
from edge_behavior.baselines.sequence.fitting import FittedSequence
from edge_behavior.baselines.sequence.inputs import IGNORED, training_stretches
from edge_behavior.baselines.sequence.model import SasRec
from edge_behavior.baselines.sequence.training import tensors
from edge_behavior.baselines.system import Budget, FailedTrainingError
from edge_behavior.baselines.trained import Spent, save_trained
from edge_behavior.data.dataset import Dataset

_RECONSTRUCTED, _TOLD = 0.5, 0.2


class Joint(nn.Module):
    """Both pairs of encoder and decoder: one hidden layer each, as in the authors' code.

    Args:
        items: [B + 1, d] SASRec's item embeddings.
        texts: [B, H] embeddings of the labels' texts.
        size: Of the joint space.
    """

    def __init__(self, items: torch.Tensor, texts: NDArray[np.float32], size: int) -> None:
        super().__init__()
        self.items: torch.Tensor
        self.texts: torch.Tensor
        self.register_buffer("items", items.detach().clone())
        self.register_buffer("texts", torch.from_numpy(texts))
        self.item_in, self.item_out = nn.Linear(items.shape[1], size), nn.Linear(size, items.shape[1])
        self.text_in, self.text_out = nn.Linear(texts.shape[1], size), nn.Linear(size, texts.shape[1])

    def encoded(self) -> torch.Tensor:
        """[B + 1, size] joint embeddings of all behaviors and of the start symbol."""
        return torch.sigmoid(self.item_in(self.items))

    def losses(self, states: torch.Tensor, answers: torch.Tensor) -> dict[str, torch.Tensor]:
        """Matching, reconstruction and rating.

        Args:
            states: [n, d] SASRec's states of users.
            answers: [n] what each of them did next: those items are matched and reconstructed.
        """
        encoded, told = self.encoded(), torch.sigmoid(self.text_in(self.texts))
        decoded = self.item_out(encoded)
        return {
            "matching": F.mse_loss(encoded[answers], told[answers]),
            "reconstruction": _RECONSTRUCTED * F.mse_loss(decoded[answers], self.items[answers])
            + _TOLD * F.mse_loss(self.text_out(told)[answers], self.texts[answers]),
            "rating": F.cross_entropy(states @ decoded[:-1].T, answers),
        }


class SoftPrompts(EventVectors):
    """The joint embedding of the behavior before every line, and SASRec's state there, projected.

    Args:
        events: SASRec.
        joint: What the first stage made; stays as it is.
        width: Of the language model's input.
    """

    places = 2

    def __init__(self, events: SasRec, joint: Joint, width: int) -> None:
        super().__init__(events)
        self.joint = joint.requires_grad_(False)
        size, state = joint.item_in.out_features, events.settings.hidden
        self.item, self.user = _projection(size, width, nn.GELU()), _projection(state, width, nn.LeakyReLU())

    def vectors(self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See `EventVectors.vectors`."""
        items = self.item(F.embedding(behavior, self.joint.encoded()))
        return torch.stack([items, self.user(self.events.states(behavior, event, target))], 2)


def _projection(inner: int, width: int, between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, width), nn.LayerNorm(width), between, nn.Linear(width, width))


@dataclass(frozen=True)
class ALlmRec(Collaborative):
    """A-LLMRec.

    Attributes:
        joint_size: Dimensions of the joint space.
        alignment_rate: Learning rate of the first stage.
        alignment_steps: Of the first stage.
        alignment_batch: Stretches per step of it.
    """

    name: ClassVar[str] = "a_llmrec"
    title: ClassVar[str] = "A-LLMRec"

    joint_size: Annotated[int, Field(ge=1)] = 128
    alignment_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    alignment_steps: Annotated[int, Field(ge=1)] = 1_000
    alignment_batch: Annotated[int, Field(ge=1)] = 32

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> FittedLanguage:
        """Align items and texts, then train the projections in front of the frozen language model."""
        fit = self.begin(dataset, history_length, budget, rate)
        # What a backbone is refused for comes before what takes minutes.
        model, texts = fit.model(tuned=False), fit.language.label_vectors()
        events = fit.events(self.sasrec)
        joint = self._aligned(fit, events, texts)
        torch.manual_seed(budget.seed)
        model.show(SoftPrompts(events.sasrec, joint, model.inputs.width))
        fit.tune(model, "prompts", events)
        return fit.fitted(model, events)

    def _aligned(self, fit: Fit, events: FittedSequence, texts: NDArray[np.float32]) -> Joint:
        """The first stage; it takes seconds, so that only its end is kept."""
        budget, file = fit.budget, fit.budget.folder / "joint.safetensors"
        torch.manual_seed(budget.seed)
        joint = Joint(events.sasrec.item_vectors(), texts, self.joint_size)
        if file.is_file():
            joint.load_state_dict(load_file(file))
            return joint
        table, rng = fit.dataset.events("train"), np.random.default_rng(budget.seed)
        columns = events.vocabulary.columns(table)
        starts, stops = training_stretches(table, fit.length + 1, budget.targets, budget.seed)
        optimizer = torch.optim.Adam(joint.parameters(), self.alignment_rate)
        begun, tokens = perf_counter(), 0
        for _ in range(self.alignment_steps):
            drawn = rng.integers(len(starts), size=self.alignment_batch)
            batch: dict[str, Any] = tensors(
                [events.rows.training(columns, int(starts[i]), int(starts[i]), int(stops[i]), rng) for i in drawn]
            )
            tokens += int(batch["present"].sum())
            asked = batch["answers"] != IGNORED
            with torch.no_grad():
                states = events.sasrec.states(*(batch[name] for name in ("behavior", "event", "target")))
            loss: Any = torch.stack(list(joint.losses(states[asked], batch["answers"][asked]).values())).sum()
            if not torch.isfinite(loss):
                raise FailedTrainingError(f"{self.title}: the alignment's loss became {float(loss)}", "lower its rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        save_trained(joint.state_dict(), file, Spent(tokens, perf_counter() - begun))
        return joint
