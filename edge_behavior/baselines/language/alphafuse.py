"""AlphaFuse: what is learned of a behavior by its number lives where its label says nothing.

Hu et al., "AlphaFuse: Learn ID Embeddings for Sequential Recommendation in Null Space of Language Embeddings", SIGIR
2025. Theirs is the split: the covariance of the labels' language embeddings is decomposed by singular values; along the
large ones the embeddings are kept, standardized and frozen, and the rest of a behavior's vector, their null space, is
learned. The encoder is SASRec.

Other than there: the language model is the comparison's backbone. With fewer labels than dimensions the covariance has
a true null space, which is all learned; theirs is cut at a number of dimensions or at a singular value, and in their
code what an embedding has along the axes that were cut stays, with the learned part added to it. The standardized part
has length one on average, so that a full softmax, which stands for their loss over drawn negatives, starts near even.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from edge_behavior.baselines.language.rival import EventRival
from edge_behavior.baselines.sequence.fitting import FittedSequence
from edge_behavior.baselines.sequence.model import SasRec, table
from edge_behavior.baselines.system import Budget
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError

# Singular values below this share of the largest are rounding.
_NOTHING = 1e-6


def language_coordinates(labels: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """[B, k] the labels along the k ≤ `most` main axes of their covariance, each axis with the same spread.

    Args:
        labels: [B, H] language embeddings.
        most: Axes, at most; those along which the labels do not differ are no axes. Along one they do.
    """
    centered = labels.astype(np.float64) - labels.mean(0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    kept = int((values[:most] > _NOTHING * values[0]).sum())
    # Columns of `left` have length 1: after this a row has, on average.
    return np.asarray(left[:, :kept] * np.sqrt(len(labels) / kept), dtype=np.float32)


class SplitSasRec(SasRec):
    """SASRec whose behaviors are frozen along the language axes and learned along the others.

    Args:
        coordinates: [B, k], k < d.
        shape: See `EventTransformer`.
    """

    def __init__(self, coordinates: NDArray[np.float32], *shape: Any) -> None:
        super().__init__(*shape)
        self.language: torch.Tensor
        # The start symbol is no label.
        self.register_buffer("language", torch.from_numpy(np.pad(coordinates, ((0, 1), (0, 0)))))
        self.items = table(self.items.weight[:, coordinates.shape[1] :])

    def item_vectors(self) -> torch.Tensor:
        """See `EventTransformer.item_vectors`: language axes first."""
        return torch.cat([self.language, self.items.weight], 1)


@dataclass(frozen=True)
class AlphaFuse(EventRival):
    """AlphaFuse.

    Attributes:
        null_share: Least share of the dimensions that is learned.
    """

    name: ClassVar[str] = "alphafuse"
    title: ClassVar[str] = "AlphaFuse"
    tunes: ClassVar[bool] = False

    null_share: Annotated[float, Field(gt=0, lt=1)] = 0.5

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> FittedSequence:
        """Split the label embeddings, and train as SASRec is trained.

        Raises:
            EdgebError: the share leaves the labels no dimension; see `fit_network`.
        """
        hidden = self.config.hidden
        most = min(round((1 - self.null_share) * hidden), hidden - 1)
        if not most:
            raise EdgebError(
                f"alphafuse.null_share = {self.null_share} leaves none of {hidden} dimensions to the labels", "lower it"
            )
        coordinates = language_coordinates(self.language.label_vectors(), most)
        return self.fit_network(partial(SplitSasRec, coordinates), dataset, history_length, budget, rate)
