"""Trains a system's network with Hugging Face's Trainer: stopped by validation rows, resumable, seeded.

What training took is counted over interruptions, and kept in the file of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from edge_behavior.baselines.system import Cost
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.checkpoints import checkpointing, last_checkpoint
from edge_behavior.train.trainer.arguments import hardware, on_one_device
from edge_behavior.train.trainer.progress import run, trainer_callbacks
from edge_behavior.util.files import new_file

WEIGHTS = "model.safetensors"
CHECKPOINTS = "checkpoints"
# Under this key of a weight file's metadata stands what its training took.
_SPENT = "edgeb.spent"
# The masks by which batches say which positions are no padding.
_MASKS = ("attention_mask", "present")


@dataclass(frozen=True)
class Spent:
    """What a training took.

    Attributes:
        tokens: Positions in its batches.
        seconds: Wall time, looks at validation rows included.
    """

    tokens: int
    seconds: float


def save_trained(weights: Mapping[str, torch.Tensor], file: Path, spent: Spent) -> None:
    """Keep weights, and what they took, in a file: whole or not at all.

    Raises:
        EdgebError: the file cannot be written.
    """
    with new_file(file, replace=True, durable=True) as made:
        save_file(dict(weights), made, metadata={_SPENT: json.dumps(asdict(spent))})


def cost_of(model: nn.Module, folder: Path) -> Cost:
    """The cost of a network whose trainings, all of them, left their weights in a folder and the folders in it."""
    found = []
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, "pt") as held:
            found.append((held.metadata() or {}).get(_SPENT))
    spent = [Spent(**json.loads(one)) for one in found if one is not None]
    known = len(spent) == len(found) > 0
    weights = [*model.parameters(), *model.buffers()]
    return Cost(
        parameters=sum(held.numel() for held in weights),
        bytes=sum(held.numel() * held.element_size() for held in weights),
        tokens=sum(one.tokens for one in spent) if known else None,
        seconds=round(sum(one.seconds for one in spent), 1) if known else None,
    )


@dataclass(frozen=True)
class TrainingPlan:
    """How a network is trained.

    Attributes:
        title: As progress shows it.
        rate: What the learning rate is called where a loss that diverged asks to lower it.
        steps: Optimizer steps, at most.
        every: Steps between two looks at the validation rows, and between two checkpoints.
        patience: Stop after so many looks without a lower loss.
        log_every: Steps between two losses of the log.
        seed: Of dropout.
        answers: The key of a batch that holds what is asked for.
        dtype: Of the weights that are not trained.
        own: Further arguments of Trainer's: rates, their schedule, batches.
    """

    title: str
    rate: str
    steps: int
    every: int
    patience: int
    log_every: int
    seed: int
    answers: str
    dtype: torch.dtype
    own: Mapping[str, Any]


class _Meter(TrainerCallback, ExportableState):
    """Counts positions and seconds; what it counted before an interruption comes from the checkpoint."""

    def __init__(self, tokens: int = 0, seconds: float = 0.0) -> None:
        self._tokens, self._before, self._begun = tokens, seconds, perf_counter()

    @property
    def spent(self) -> Spent:
        """Until now."""
        return Spent(self._tokens, self._before + perf_counter() - self._begun)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, and this is made of again."""
        return {"args": asdict(self.spent), "attributes": {}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Start counting."""
        self._begun = perf_counter()
        self._hook = given["model"].register_forward_pre_hook(self._count, with_kwargs=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop."""
        self._hook.remove()

    def _count(self, model: nn.Module, _: Any, batch: Mapping[str, Any]) -> None:
        if model.training:
            self._tokens += sum(int(batch[name].sum()) for name in _MASKS if name in batch)


def train_best(
    model: nn.Module, plan: TrainingPlan, train: Any, validation: Any | None, collate: Callable[..., Any], folder: Path
) -> tuple[dict[str, torch.Tensor], Spent]:
    """Train, or go on from the last finished checkpoint in `folder`.

    Args:
        model: Gives a `loss`; its `state_dict` is what is kept.
        plan: How.
        train: Rows of all epochs, in the order in which they are taken.
        validation: Rows that stop it; None trains to the end.
        collate: Makes a batch of rows.
        folder: Of the work in progress.

    Returns:
        The weights with the lowest validation loss, the last ones without validation rows; and what they took.

    Raises:
        EdgebError: the loss diverged or is no number, or a checkpoint is damaged.
    """
    selection: dict[str, Any] = {}
    if validation is not None:
        selection = {"eval_strategy": "steps", "eval_steps": plan.every, "load_best_model_at_end": True}
        selection |= {"metric_for_best_model": "eval_loss", "greater_is_better": False}
    checkpoints = folder.resolve() / CHECKPOINTS
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=plan.steps,
        logging_steps=plan.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=plan.every,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        label_names=[plan.answers],
        prediction_loss_only=True,
        report_to="none",
        disable_tqdm=True,
        seed=plan.seed,
        **selection,
        **plan.own,
        **hardware(plan.dtype),
    )
    callbacks = [*trainer_callbacks(plan.title, plan.rate, Recipe(report_to=[]), folder), _Meter(), *checkpointing()]
    if validation is not None:
        callbacks.append(EarlyStoppingCallback(plan.patience))
    trainer: Any = Trainer(
        model=model,
        args=on_one_device(arguments),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate,
        callbacks=callbacks,
    )
    state = run(trainer, last_checkpoint(checkpoints))
    # That of a resumed training is another one than was passed.
    meter = next(one for one in trainer.callback_handler.callbacks if isinstance(one, _Meter))
    best = state.global_step if validation is None else state.best_global_step
    return load_file(checkpoints / f"{PREFIX_CHECKPOINT_DIR}-{best}" / WEIGHTS), meter.spent
