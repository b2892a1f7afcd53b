"""SASRec on a language model's vectors of the labels: what LLM-ESR and AlphaFuse start from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_behavior.baselines.sequence.model import SasRec, table


class LabelSasRec(SasRec):
    """SASRec whose behaviors are frozen vectors of a language model, through an adapter that is learned.

    The start symbol, which is no label, has a vector of its own.

    Args:
        labels: [B, H] vectors of the labels.
        shape: See `EventTransformer`.
    """

    def __init__(self, labels: NDArray[np.float32], *shape: Any) -> None:
        super().__init__(*shape)
        hidden, width = self.settings.hidden, labels.shape[1]
        # Centered, and of length one on average: hidden states share a direction that tells no label from another.
        centered = labels - labels.mean(0)
        self.labels: torch.Tensor
        self.register_buffer("labels", torch.from_numpy(centered / np.linalg.norm(centered, axis=1).mean()))
        self.adapter = nn.Sequential(nn.Linear(width, width // 2), nn.Linear(width // 2, hidden))
        # Of the items' own vectors only the start symbol's is left.
        self.items = table(self.items.weight[-1:])

    def item_vectors(self) -> torch.Tensor:
        """See `EventTransformer.item_vectors`."""
        return torch.cat([self.adapter(self.labels), self.items.weight])
