"""PITuning: a language model's weights read behaviors as vectors, for all users first and then for each by itself.

Gong et al., "A Population-to-individual Tuning Framework for Adapting Pretrained LM to On-device User Intent
Prediction", KDD 2024. Theirs are a predictor that starts from the weights of a pretrained language model and takes
embedded events for words; population tuning on everyone's behaviors, with a second loss that reconstructs the events
read so far; and individual tuning on a user's own events, with an unlearning that adapts to how much too often the
population's model predicts a behavior, so that rare ones keep their share.

Their code is not public and their formulas were not at hand: the forms of the losses are ours. Unlearning is the sum,
over behaviors, of what the mean prediction at the user's events has above the share of the behavior among them, both
mixed with the population's share: it falls to zero as soon as no behavior is predicted too often. Left out: the small
model that they distill for the phone; individual tuning changes the last layer only, of a copy per user, on the events
before the user's first window, so that no window's truth is learned from.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from peft import get_peft_model
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from edge_behavior.baselines.cold_start import earlier_events, known_only
from edge_behavior.baselines.language.backbone import Language
from edge_behavior.baselines.language.rival import Adapted, EventRival
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.fitting import FittedSequence
from edge_behavior.baselines.sequence.inputs import IGNORED
from edge_behavior.baselines.sequence.model import SasRec
from edge_behavior.baselines.sequence.training import tensors
from edge_behavior.baselines.system import Budget, Cost, Fitted, Floats, Ints
from edge_behavior.core.candidates import smoothed_shares
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.hf.tree.inputs import VectorInputs
from edge_behavior.train.trainer.lora import in_float32, lora_config

# A language model learns in fewer steps than a small network, and each takes far longer.
_FEWER: dict[str, Any] = {"epochs": 16, "least_steps": 100, "eval_steps": 20, "patience": 3}


class LanguagePredictor(SasRec):
    """A language model over embedded events; its adapter, the embeddings and the last layer are trained.

    Args:
        language: The language model.
        reconstruction: Weight of the second loss.
        seed: Of the adapter's first weights.
        shape: See `EventTransformer`.
    """

    def __init__(self, language: Language, reconstruction: float, seed: int, *shape: Any) -> None:
        super().__init__(*shape)
        # Trainer moves the whole network; a fit that is read stays where SASRec is.
        backbone = language.load().cpu()
        width = VectorInputs(backbone).width
        backbone.requires_grad_(False)
        torch.manual_seed(seed)
        self.backbone = get_peft_model(backbone.get_decoder(), _decoder_lora(language))
        in_float32(self.backbone)
        self.reconstruction = reconstruction
        self.blocks = nn.ModuleList()
        self.entry, self.answer = nn.Linear(self.settings.hidden, width), nn.Linear(width, self.candidates)
        self.rebuilt = nn.Linear(width, self.candidates + 1)

    def states(self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """[n, T, H] last hidden states. Padding comes last, where no position before it looks."""
        inputs = self.entry(self._asking(self._embedded(behavior, event), target))
        found = self.backbone(inputs_embeds=inputs.to(self.backbone.dtype), use_cache=False).last_hidden_state
        return torch.as_tensor(found.float())

    def logits(
        self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        """See `EventTransformer.logits`."""
        return torch.as_tensor(self.answer(self.states(behavior, event, target)))

    def forward(
        self,
        behavior: torch.Tensor,
        event: torch.Tensor,
        target: torch.Tensor,
        present: torch.Tensor,
        answers: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """See `EventTransformer.forward`; in training the loss holds the reconstruction, too."""
        states = self.states(behavior, event, target)
        logits = self.answer(states)
        if answers is None:
            return {"logits": logits}
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORED)
        if self.training and self.reconstruction:
            loss = loss + self.reconstruction * F.cross_entropy(self.rebuilt(states[present]), behavior[present])
        return {"loss": loss, "logits": logits}

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """What is trained, by name."""
        return {name: held.detach() for name, held in self.named_parameters() if held.requires_grad}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` gave."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        return found._replace(missing_keys=[name for name in found.missing_keys if name in self.state_dict()])


def _decoder_lora(language: Language) -> Any:
    """The recipe's adapter on a language model without its output layer."""
    config = lora_config(language.recipe.lora)
    config.task_type = None
    return config


def unlearning(log_probs: torch.Tensor, answers: torch.Tensor, shares: torch.Tensor, prior: float) -> torch.Tensor:
    """What the mean prediction has above a user's own shares, summed over behaviors; no less than 0.

    Args:
        log_probs: [n, B] at the user's events.
        answers: [n] what happened.
        shares: [B] the population's.
        prior: How many events the population's shares count for.
    """
    own = (F.one_hot(answers, len(shares)).sum(0) + prior * shares) / (len(answers) + prior)
    return (log_probs.exp().mean(0) - own).clamp(min=0).sum()


class FittedIndividuals:
    """A predictor for the population, whose last layer is tuned to every user before it answers for them."""

    def __init__(self, population: FittedSequence, system: PiTuning, shares: Floats) -> None:
        self.population, self._system = population, system
        self._shares = torch.from_numpy(shares).float()

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """See `Fitted.log_probs`."""
        table, targets = known_only(table, targets, known)
        users, found = table.user_of(targets), np.empty((len(targets), len(self._shares)))
        for user in np.unique(users).tolist():
            rows = np.flatnonzero(users == user)
            first, start = int(targets[rows].min()), int(table.user_offsets[user])
            own = np.arange(max(start, first - self._system.own_events), first)
            answer = self._tuned(self._states(table, own), table.behavior[own].astype(np.int64))
            with torch.inference_mode():
                found[rows] = log_softmax(answer(self._states(table, targets[rows])).double().numpy())
        return found

    def cost(self) -> Cost:
        """See `CostedFit.cost`: the population's model; a user's layer is made anew whenever they are asked about."""
        return self.population.cost()

    def close(self) -> None:
        """Nothing but memory is held."""

    def _states(self, table: EventTable, targets: Ints) -> torch.Tensor:
        """[n, H] the state at each target's question."""
        model = self._model
        if not len(targets):
            return torch.empty((0, model.answer.in_features))
        columns, lengths = self.population.vocabulary.columns(table), earlier_events(table, targets)
        batch = tensors(self.population.rows.windows(table, columns, targets))
        with torch.no_grad():
            states = model.states(batch["behavior"], batch["event"], batch["target"])
        return states[torch.arange(len(targets)), torch.from_numpy(np.minimum(lengths, self.population.rows.length))]

    def _tuned(self, states: torch.Tensor, behavior: Ints) -> nn.Linear:
        """A copy of the last layer, tuned to a user's events."""
        system, answers, own = self._system, torch.tensor(behavior), deepcopy(self._model.answer).requires_grad_(True)
        if not len(answers):
            return own
        # How far a step goes depends on how long states are, which no two language models have in common.
        rate = system.individual_rate / float(states.square().sum(1).mean())
        optimizer = torch.optim.SGD(own.parameters(), rate)
        for _ in range(system.individual_steps):
            log_probs = torch.log_softmax(own(states), -1)
            loss: Any = F.nll_loss(log_probs, answers)
            if system.unlearning:
                loss = loss + system.unlearning * unlearning(log_probs, answers, self._shares, system.prior_events)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return own

    @property
    def _model(self) -> LanguagePredictor:
        model = self.population.model
        assert isinstance(model, LanguagePredictor)
        return model


@dataclass(frozen=True)
class PiTuning(EventRival, Adapted):
    """PITuning.

    Attributes:
        reconstruction: Weight of reconstructing the events in population tuning.
        unlearning: Weight of the unlearning in individual tuning; 0 is plain tuning.
        individual_steps: Gradient steps per user; 0 keeps the population's answers.
        individual_rate: Their rate, over the mean square of a state's length.
        own_events: Most events of a user that they are taken on.
        prior_events: How many events the population's shares count for among a user's.
    """

    name: ClassVar[str] = "pituning"
    title: ClassVar[str] = "PITuning"
    unshipped: ClassVar[str] = "it is tuned to every user, and a bundle learns no weights"

    config: SequenceConfig = field(default_factory=partial(SequenceConfig, **_FEWER))
    reconstruction: Annotated[float, Field(ge=0)] = 0.1
    unlearning: Annotated[float, Field(ge=0)] = 1.0
    individual_steps: Annotated[int, Field(ge=0)] = 10
    individual_rate: Annotated[float, Field(gt=0)] = 0.5
    own_events: Annotated[int, Field(ge=1)] = 100
    prior_events: Annotated[float, Field(gt=0)] = 10.0

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        """Tune to the population; individuals are met when they are asked about."""
        build = partial(LanguagePredictor, self.tuned, self.reconstruction, budget.seed)
        population = self.fit_network(build, dataset, history_length, budget, rate)
        return FittedIndividuals(population, self, smoothed_shares(dataset.candidates.counts))
