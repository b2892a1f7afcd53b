"""What a small transformer over events is trained on, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.inputs import Row, padded
from edge_behavior.baselines.sequence.model import EventTransformer
from edge_behavior.baselines.system import Ints
from edge_behavior.baselines.trained import Spent, TrainingPlan, train_best

# The second momentum of SASRec's and BERT4Rec's Adam is .98 and .999; .98 suits short runs.
_BETA2 = 0.98
_WARMUP = 0.05
# A training row: start, stop and what to draw from. Models that see more than events have rows of their own.
TrainRow = Callable[[int, int, np.random.Generator], Any]


@dataclass(frozen=True)
class TrainingData:
    """What a model is trained and stopped by.

    Attributes:
        starts: [n] first event of each training stretch.
        stops: [n] event after its last.
        row: Makes a training row of a stretch.
        validation: Rows with one question each; none trains for all epochs.
        collate: Makes a batch of rows, of training and of validation; None for `tensors`.
    """

    starts: Ints
    stops: Ints
    row: TrainRow
    validation: list[Row]
    collate: Callable[[list[Any]], dict[str, Any]] | None = None


class _AllEpochs(TorchDataset[Any]):
    """The rows of all epochs in order, each a function of its number: a resumed training sees the same ones."""

    def __init__(self, data: TrainingData, rows: int, seed: int) -> None:
        self._data, self._rows, self._seed = data, rows, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, number: int) -> Any:
        if number >= self._rows:
            raise IndexError(number)
        epoch, place = divmod(number, len(self._data.starts))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._data.starts))
            self._epoch = epoch
        stretch = self._order[place]
        rng = np.random.default_rng([self._seed, epoch, place])
        return self._data.row(int(self._data.starts[stretch]), int(self._data.stops[stretch]), rng)


def tensors(rows: list[Row]) -> dict[str, torch.Tensor]:
    """A batch as the models take it."""
    return {name: torch.from_numpy(values) for name, values in padded(rows).items()}


def train(
    model: EventTransformer,
    data: TrainingData,
    config: SequenceConfig,
    rate: float,
    seed: int,
    folder: Path,
    title: str,
) -> tuple[dict[str, torch.Tensor], Spent]:
    """Train, or go on from the last finished checkpoint in `folder`.

    Returns:
        The weights with the lowest validation loss, the last ones without validation rows; and what they took.

    Raises:
        EdgebError: the loss diverged or is no number, or a checkpoint is damaged.
    """
    per_epoch = -(-len(data.starts) // config.batch_size)
    steps = max(config.epochs * per_epoch, config.least_steps)
    every = min(max(per_epoch, config.eval_steps), steps)
    plan = TrainingPlan(
        title=title,
        rate="the learning rate",
        steps=steps,
        every=every,
        patience=config.patience,
        log_every=max(1, every // 5),
        seed=seed,
        answers="answers",
        dtype=torch.float32,
        own={
            "per_device_train_batch_size": config.batch_size,
            "per_device_eval_batch_size": 256,
            "learning_rate": rate,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": max(1, round(_WARMUP * config.least_steps)),
            "adam_beta2": _BETA2,
        },
    )
    rows = _AllEpochs(data, steps * config.batch_size, seed)
    return train_best(model, plan, rows, data.validation or None, data.collate or tensors, folder)
