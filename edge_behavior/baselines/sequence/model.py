"""SASRec and BERT4Rec as torch modules with a full softmax over the candidates.

SASRec: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018. BERT4Rec: Sun et al., "BERT4Rec",
CIKM 2019. Both in the form of the authors' code: SASRec's residual connections start from the normalized input, and
BERT4Rec's embeddings are normalized, as BERT's. Both count positions from the first event shown. With
`context`, embeddings of hour, weekday and place are added to those of the behaviors.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.inputs import IGNORED

_SPREAD = 0.02


class _Contexts(nn.Module):
    """Sum of the embeddings of hour bucket, weekday and place; 0 where there is no event."""

    def __init__(self, sizes: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(nn.Embedding(size, hidden, padding_idx=0) for size in sizes)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """[n, T, kinds] numbers to [n, T, d]."""
        return torch.stack([kind(context[..., i]) for i, kind in enumerate(self.kinds)]).sum(0)


class EventTransformer(nn.Module):
    """What both models share: embeddings, and the loss where a behavior is asked for.

    Args:
        candidates: B; the number B is the model's special symbol.
        positions: Most events in a row.
        context_sizes: Numbers of each kind of context.
    """

    def __init__(self, candidates: int, positions: int, context_sizes: tuple[int, ...], config: SequenceConfig) -> None:
        super().__init__()
        # Trainer takes an attribute `config` for a Transformers configuration.
        self.candidates, self.settings = candidates, config
        self.items = nn.Embedding(candidates + 1, config.hidden)
        self.positions = nn.Embedding(positions, config.hidden)
        self.event_context = _Contexts(context_sizes, config.hidden) if config.context else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        behavior: torch.Tensor,
        event: torch.Tensor,
        target: torch.Tensor,
        present: torch.Tensor,
        answers: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Logits [n, T, B] of a batch of `inputs.padded`; with `answers` the mean cross-entropy as `loss`, too."""
        logits = self.logits(behavior, event, target, present)
        if answers is None:
            return {"logits": logits}
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORED)
        return {"loss": loss, "logits": logits}

    @abstractmethod
    def logits(
        self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        """[n, T, B]."""

    def item_vectors(self) -> torch.Tensor:
        """[B + 1, d]: every behavior's vector, as input and as output weights, and that of the special symbol."""
        return self.items.weight

    def shipped(self) -> dict[str, torch.Tensor] | None:
        """Weights with which a plain SASRec or BERT4Rec computes the same; None where none does."""
        return None

    def _embedded(self, behavior: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
        return self._placed(F.embedding(behavior, self.item_vectors()), event)

    def _placed(self, items: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
        """Behaviors [n, T, d] with their positions and, where the model sees them, their contexts."""
        x: torch.Tensor = items + self.positions(torch.arange(items.shape[1], device=items.device))
        return x if self.event_context is None else x + self.event_context(event)

    def _initialize(self) -> None:
        """Embeddings: truncated normal in [-.02, .02], as BERT4Rec's paper has it. The rest keeps torch's own spread,
        which grows as the width falls: at .02, matrices of this width hand on a hundredth of what they are given.
        """
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=_SPREAD, a=-_SPREAD, b=_SPREAD)
                if module.padding_idx is not None:
                    nn.init.zeros_(module.weight[module.padding_idx].data)


def table(weights: torch.Tensor) -> nn.Embedding:
    """An embedding of these vectors, which are learned on."""
    rows, width = weights.shape
    return nn.Embedding(rows, width, _weight=weights.detach().clone())


def earlier_only(x: torch.Tensor) -> torch.Tensor:
    """[T, T] true where a position of [n, T, d] must not look: at those after it."""
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)


class _SasRecBlock(nn.Module):
    """Self-attention and a point-wise feed-forward network (§III-B), as the authors' code connects them."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        d = config.hidden
        self.query_norm, self.feed_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = nn.MultiheadAttention(d, config.heads, config.dropout, batch_first=True)
        self.inner, self.outer = nn.Linear(d, d), nn.Linear(d, d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[n, T, d] to [n, T, d]; `mask` [T, T] is true where a position must not look."""
        query = self.query_norm(x)
        attended, _ = self.attention(query, x, x, attn_mask=mask, need_weights=False)
        x = self.feed_norm(query + attended)
        fed = self.outer(self.dropout(torch.relu(self.inner(x))))
        return torch.as_tensor(x + self.dropout(fed))


class SasRec(EventTransformer):
    """SASRec: every position predicts the next behavior from those up to it. The special symbol is the start."""

    def __init__(self, *shape: Any) -> None:
        super().__init__(*shape)
        sizes, config = shape[2], self.settings
        self.target_context = _Contexts(sizes, config.hidden) if config.context else None
        self.blocks = nn.ModuleList(_SasRecBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden)
        self._initialize()

    def logits(
        self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        """See `EventTransformer.logits`; padding comes last, where no position before it looks."""
        return torch.as_tensor(self.states(behavior, event, target) @ self.item_vectors()[: self.candidates].T)

    def shipped(self) -> dict[str, torch.Tensor] | None:
        """See `EventTransformer.shipped`: whatever a behavior's vector is made of, a plain table holds."""
        if type(self).states is not SasRec.states or type(self).logits is not SasRec.logits:
            return None
        names = ("positions", "event_context", "target_context", "blocks", "norm")
        found = {name: held for name, held in self.state_dict().items() if name.split(".")[0] in names}
        return {"items.weight": self.item_vectors().detach(), **found}

    def states(self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """[n, T, d] what every position knows of the user, whose product with a behavior's vector is its logit."""
        return self._encoded(self._asking(self._embedded(behavior, event), target))

    def _asking(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Inputs of the blocks: embedded events [n, T, d], each with the context of the event to predict."""
        return torch.as_tensor(self.dropout(x if self.target_context is None else x + self.target_context(target)))

    def _encoded(self, x: torch.Tensor) -> torch.Tensor:
        mask = earlier_only(x)
        for block in self.blocks:
            x = block(x, mask)
        return torch.as_tensor(self.norm(x))


class Bert4Rec(EventTransformer):
    """BERT4Rec: hidden behaviors from those on both sides. The special symbol is the mask."""

    def __init__(self, *shape: Any) -> None:
        super().__init__(*shape)
        d, config = self.settings.hidden, self.settings
        self.norm = nn.LayerNorm(d)
        # Eq. 3-6: LN(x + Dropout(sublayer(x))), GELU, an inner width of 4d.
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(d, config.heads, 4 * d, config.dropout, "gelu", batch_first=True)
            for _ in range(config.layers)
        )
        self.projection = nn.Linear(d, d)
        self.bias = nn.Parameter(torch.zeros(self.candidates))
        self._initialize()

    def shipped(self) -> dict[str, torch.Tensor] | None:
        """See `EventTransformer.shipped`: its own."""
        return self.state_dict()

    def logits(
        self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        """See `EventTransformer.logits`; Eq. 7 with the embeddings as output weights."""
        x = self.dropout(self.norm(self._embedded(behavior, event)))
        for block in self.blocks:
            x = block(x, src_key_padding_mask=~present)
        return torch.as_tensor(F.gelu(self.projection(x)) @ self.items.weight[: self.candidates].T + self.bias)
