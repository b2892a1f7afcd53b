"""Trains a small transformer over events with Hugging Face's Trainer: early stopping, resumable, seeded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset as TorchDataset
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.inputs import Row, padded
from edge_behavior.baselines.sequence.model import EventTransformer
from edge_behavior.baselines.system import Ints
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.checkpoints import MarkComplete, last_checkpoint
from edge_behavior.train.trainer.arguments import hardware, on_one_device
from edge_behavior.train.trainer.progress import run, trainer_callbacks

# The second momentum of SASRec's and BERT4Rec's Adam is .98 and .999; .98 suits short runs.
_BETA2 = 0.98
_WARMUP = 0.05
# A training row: start, stop and what to draw from. Models that see more than events have rows of their own.
TrainRow = Callable[[int, int, np.random.Generator], Any]
WEIGHTS = "model.safetensors"


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
) -> dict[str, torch.Tensor]:
    """Train, or go on from the last finished checkpoint in `folder`.

    Returns:
        The weights with the lowest validation loss; the last ones where there is no validation row.

    Raises:
        EdgebError: the loss diverged or is no number, or a checkpoint is damaged.
    """
    per_epoch = -(-len(data.starts) // config.batch_size)
    steps = max(config.epochs * per_epoch, config.least_steps)
    every = min(max(per_epoch, config.eval_steps), steps)
    selection: dict[str, Any] = {}
    if data.validation:
        selection = {"eval_strategy": "steps", "eval_steps": every, "load_best_model_at_end": True}
        selection |= {"metric_for_best_model": "eval_loss", "greater_is_better": False}
    checkpoints = folder.resolve() / "checkpoints"
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=256,
        learning_rate=rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=max(1, round(_WARMUP * config.least_steps)),
        adam_beta2=_BETA2,
        logging_steps=max(1, every // 5),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        label_names=["answers"],
        prediction_loss_only=True,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        **selection,
        **hardware(torch.float32),
    )
    callbacks = [*trainer_callbacks(title, "the learning rate", Recipe(report_to=[]), folder), MarkComplete()]
    if data.validation:
        callbacks.append(EarlyStoppingCallback(config.patience))
    trainer: Any = Trainer(
        model=model,
        args=on_one_device(arguments),
        train_dataset=_AllEpochs(data, steps * config.batch_size, seed),
        eval_dataset=data.validation or None,
        data_collator=data.collate or tensors,
        callbacks=callbacks,
    )
    state = run(trainer, last_checkpoint(checkpoints))
    best = state.best_global_step if data.validation else state.global_step
    return load_file(checkpoints / f"{PREFIX_CHECKPOINT_DIR}-{best}" / WEIGHTS)
