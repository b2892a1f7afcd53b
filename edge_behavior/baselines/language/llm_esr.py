"""LLM-ESR: two views of the same sequence, one of the labels' meaning and one of who does what.

Liu et al., "LLM-ESR: Large Language Models Enhancement for Long-tailed Sequential Recommendation", NeurIPS 2024.
Theirs are the semantic view, frozen embeddings of a language model through an adapter of two linear layers; the
collaborative view, embeddings that are learned from a PCA of the former on; cross-attention, by which each view asks
the other before one encoder, shared by both, reads them; and self-distillation: a user's representation is drawn
towards the mean of similar users', which get no gradient. A behavior's score is the sum over both views.

Other than there: the language model is the comparison's backbone, not an embedding service. Users are similar by the
mean vector of what they did, not by an embedding of a prompt that tells it. Of the similar users two are drawn per row
and step, instead of all ten at once: the same gradient on average. The loss is a full softmax, as for our SASRec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from edge_behavior.baselines.language.label_views import LabelSasRec
from edge_behavior.baselines.language.rival import EventRival
from edge_behavior.baselines.sequence.fitting import FittedSequence, WindowRows
from edge_behavior.baselines.sequence.inputs import Columns, Row, causal_row
from edge_behavior.baselines.sequence.model import earlier_only
from edge_behavior.baselines.sequence.training import TrainingData, tensors
from edge_behavior.baselines.system import Budget, Ints
from edge_behavior.data.dataset import Dataset, EventTable

_SHOWN_PEERS = 2


class DualView(LabelSasRec):
    """SASRec over both views.

    Args:
        distillation: Weight α of the distance to similar users.
        labels: [B, H].
        shape: See `EventTransformer`.
    """

    def __init__(self, distillation: float, labels: NDArray[np.float32], *shape: Any) -> None:
        super().__init__(labels, *shape)
        config = self.settings
        self.distillation = distillation
        self.collaborative = nn.Parameter(self._principal(config.hidden))
        attention = partial(nn.MultiheadAttention, config.hidden, config.heads, bias=False, batch_first=True)
        self.meaning_asks, self.others_ask = attention(), attention()

    def _principal(self, size: int) -> torch.Tensor:
        """[B + 1, d] the labels' coordinates along their first principal axes; zeros where there are fewer, and for
        the start symbol. They are as large as SASRec's own first vectors.
        """
        left, values, _ = torch.linalg.svd(self.labels, full_matrices=False)
        found = (left * values)[:, :size]
        found = F.pad(found, (0, size - found.shape[1], 0, 1))
        return found * (0.02 / found[:-1].std())

    def forward(
        self,
        behavior: torch.Tensor,
        event: torch.Tensor,
        target: torch.Tensor,
        present: torch.Tensor,
        answers: torch.Tensor | None = None,
        peers: dict[str, torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """See `EventTransformer.forward`; with `peers`, rows of similar users, their distance is part of the loss."""
        found = super().forward(behavior, event, target, present, answers)
        if peers is None:
            return found
        own = _last(self.states(behavior, event, target), present)
        with torch.no_grad():
            others = _last(self.states(*(peers[name] for name in ("behavior", "event", "target"))), peers["present"])
        mean = others.view(len(own), -1, own.shape[1]).mean(1)
        return {**found, "loss": found["loss"] + self.distillation * F.mse_loss(own, mean)}

    def item_vectors(self) -> torch.Tensor:
        """[B + 1, 2d] both views side by side."""
        return torch.cat([super().item_vectors(), self.collaborative], 1)

    def states(self, behavior: torch.Tensor, event: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """[n, T, 2d] both views side by side, each after a look at the other."""
        views = F.embedding(behavior, self.item_vectors()).chunk(2, -1)
        meaning, others = (self._asking(self._placed(view, event), target) for view in views)
        mask = earlier_only(meaning)
        asked = self.meaning_asks(meaning, others, others, attn_mask=mask, need_weights=False)[0]
        asking = self.others_ask(others, meaning, meaning, attn_mask=mask, need_weights=False)[0]
        return torch.cat([self._encoded(asked), self._encoded(asking)], -1)


def _last(states: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """[n, d] the state at each row's last position."""
    return states[torch.arange(len(states), device=states.device), present.sum(1) - 1]


@dataclass(frozen=True)
class PeeredRow:
    """A training row, and rows of similar users."""

    row: Row
    peers: list[Row]


def collate(rows: Sequence[Row | PeeredRow]) -> dict[str, Any]:
    """A batch of rows with similar users, or of validation rows, which have none."""
    own = [row.row if isinstance(row, PeeredRow) else row for row in rows]
    peers = [peer for row in rows if isinstance(row, PeeredRow) for peer in row.peers]
    if not peers:
        return tensors(own)
    found = tensors(peers)
    del found["answers"]
    return {**tensors(own), "peers": found}


def similar_users(table: EventTable, labels: NDArray[np.float32], count: int) -> Ints:
    """[U, count] for every user the others that do the most similar things, by the cosine of their mean vectors.

    Fewer users repeat themselves; a user alone is its own peer.
    """
    users = len(table.user_offsets) - 1
    sums = np.zeros((users, labels.shape[1]))
    np.add.at(sums, table.user_of(np.arange(len(table))), (labels - labels.mean(0))[table.behavior])
    unit = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    found = np.empty((users, count), dtype=np.int64)
    for user in range(users):
        likeness = unit @ unit[user]
        # Not itself, nor who does nothing; without anyone else, itself.
        likeness[(np.diff(table.user_offsets) == 0) | (np.arange(users) == user)] = -np.inf
        nearest = np.argsort(-likeness, kind="stable")[: max(1, min(count, int(np.isfinite(likeness).sum())))]
        found[user] = np.resize(nearest if np.isfinite(likeness).any() else [user], count)
    return found


@dataclass(frozen=True)
class LlmEsr(EventRival):
    """LLM-ESR.

    Attributes:
        collaborative: Have the second view, and distill; without it this is SASRec on frozen embeddings.
        distillation: Weight α of the distillation.
        peers: Similar users of each.
    """

    name: ClassVar[str] = "llm_esr"
    title: ClassVar[str] = "LLM-ESR"
    tunes: ClassVar[bool] = False
    unshipped: ClassVar[str] = "its two views of a sequence are another network than a bundle's"

    collaborative: bool = True
    distillation: Annotated[float, Field(ge=0)] = 0.1
    peers: Annotated[int, Field(ge=1)] = 10

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> FittedSequence:
        """Train as SASRec is trained, towards similar users."""
        labels = self.language.label_vectors()
        build: Callable[..., LabelSasRec] = partial(LabelSasRec, labels)
        if self.collaborative:
            build = partial(DualView, self.distillation, labels)
        data = partial(self._with_peers, labels) if self.collaborative and self.distillation else None
        return self.fit_network(build, dataset, history_length, budget, rate, data)

    def _with_peers(
        self, labels: NDArray[np.float32], data: TrainingData, rows: WindowRows, table: EventTable, columns: Columns
    ) -> TrainingData:
        similar, offsets = similar_users(table, labels, self.peers), table.user_offsets

        def row(start: int, stop: int, rng: np.random.Generator) -> PeeredRow:
            own = data.row(start, stop, rng)
            user = int(table.user_of(np.array([start]))[0])
            # What a peer did last.
            spans = [(int(offsets[peer]), int(offsets[peer + 1])) for peer in rng.choice(similar[user], _SHOWN_PEERS)]
            peers = [causal_row(columns, max(a, b - rows.length - 1), b, rows.symbol) for a, b in spans]
            return PeeredRow(own, peers)

        return TrainingData(data.starts, data.stops, row, data.validation, collate)
