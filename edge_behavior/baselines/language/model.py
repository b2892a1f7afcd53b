"""A language model that is tuned with vectors among its input, and the networks that make vectors of events."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from peft import get_peft_model
from torch import nn

from edge_behavior.baselines.sequence.model import SasRec
from edge_behavior.hf.tree.inputs import VectorInputs
from edge_behavior.train.recipe import LoraSettings
from edge_behavior.train.rows.lazy import IGNORED
from edge_behavior.train.trainer.label_head import LabelLogProbs
from edge_behavior.train.trainer.lora import in_float32, lora_config


class EventVectors(nn.Module):
    """Makes the vectors before every line of a row of events, of a sequence model that stays as it is.

    Args:
        events: The trained sequence model.
    """

    places: int

    def __init__(self, events: SasRec) -> None:
        super().__init__()
        self.events = events.requires_grad_(False)

    @abstractmethod
    def vectors(self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """[n, T, places, H] of a batch of `sequence.inputs.padded`."""

    def forward(
        self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        """[K, H] the vectors of all positions that are no padding, row after row."""
        # Frozen, it drops nothing out either.
        self.events.eval()
        return self.vectors(behavior, event, target)[present].flatten(0, 1)


class TunedLanguage(nn.Module):
    """A language model, and what makes vectors for its input, if anything does; the loss is the mean over label tokens.

    Its `state_dict` holds what is trained, and nothing of the backbone.

    Args:
        backbone: A causal LM; its own weights stay as they are.
        lora: The adapter to tune; None for a language model that is not tuned at all.
        seed: Of the adapter's first weights.
    """

    # Trainer says how many label tokens a whole batch has.
    accepts_loss_kwargs = True

    def __init__(self, backbone: Any, lora: LoraSettings | None, seed: int) -> None:
        super().__init__()
        self.inputs = VectorInputs(backbone)
        backbone.requires_grad_(False)
        if lora is not None:
            torch.manual_seed(seed)
            backbone = get_peft_model(backbone, lora_config(lora))
            in_float32(backbone)
        self.language = backbone
        self.vectors: EventVectors | None = None

    def show(self, vectors: EventVectors) -> None:
        """Show vectors among the input, in training and in scoring."""
        self.vectors = vectors.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        weight: torch.Tensor = next(self.language.parameters())
        return weight.device

    @property
    def places(self) -> int:
        """Vectors before every line."""
        return 0 if self.vectors is None else self.vectors.places

    def event_vectors(self, events: dict[str, torch.Tensor] | None) -> torch.Tensor:
        """[K, H] vectors of a batch of events; none without events."""
        if events is None or self.vectors is None:
            return torch.empty((0, self.inputs.width), device=self.device)
        return torch.as_tensor(self.vectors(**{name: values.to(self.device) for name, values in events.items()}))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        events: dict[str, torch.Tensor] | None = None,
        num_items_in_batch: Any = None,
    ) -> dict[str, torch.Tensor]:
        """The loss of a batch of `rows.Collate`."""
        embedded = self.inputs.embed(input_ids, self.event_vectors(events))
        whole = self.language.get_base_model() if hasattr(self.language, "peft_config") else self.language
        states = whole.get_decoder()(
            inputs_embeds=embedded, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        asked, head = labels[:, 1:] != IGNORED, whole.get_output_embeddings()
        function: Any = LabelLogProbs
        log_probs = function.apply(
            states[:, :-1][asked], head.weight, getattr(head, "bias", None), labels[:, 1:][asked], 1.0, 0
        )[0]
        return {"loss": -log_probs.sum() / (len(log_probs) if num_items_in_batch is None else num_items_in_batch)}

    def freeze_language(self) -> None:
        """Keep the adapter as it is from now on."""
        self.language.requires_grad_(False)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """What is trained, by name."""
        return {name: held.detach() for name, held in self.named_parameters() if held.requires_grad}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` gave; names the keys that are missing of it, and those that are too many."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        return found._replace(missing_keys=[name for name in found.missing_keys if name in self.state_dict()])

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """Compute the language model's states anew in the backward pass; Trainer asks for it."""
        self.language.gradient_checkpointing_enable(gradient_checkpointing_kwargs)


def projection(width: int, inner: int, outer: int) -> nn.Sequential:
    """Two linear layers with a GELU between them, from one space to another."""
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, outer))
