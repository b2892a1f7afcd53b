"""Weights of labels in A-Tuning's loss, from how often each occurs in training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_behavior.data.dataset import EventTable
from edge_behavior.train.recipe import ATuning
from edge_behavior.train.rows.samples import target_mask

_POWERS = {"inverse": -1.0, "sqrt_inverse": -0.5}


def class_weights(settings: ATuning, table: EventTable) -> NDArray[np.float64] | None:
    """[B] weight of each label's loss; None where all weigh the same.

    A label's weight goes by its share of the training events, each label counted once more than it occurs. Over the
    training events whose label carries a loss, the weights have mean 1: the loss keeps its size, and so does the best
    learning rate. Labels without a loss weigh 0.

    Raises:
        EdgebError: no label carries a loss.
    """
    if settings.class_weights == "none":
        return None
    counts = np.where(target_mask(settings, table), np.asarray(table.candidates.counts, dtype=np.float64), np.nan)
    raw = (counts + 1) ** _POWERS[settings.class_weights]
    return np.asarray(np.nan_to_num(raw * np.nansum(counts) / np.nansum(counts * raw)))
