"""Trains what a `TunedLanguage` has to train with Hugging Face's Trainer: early stopping, resumable, seeded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from edge_behavior.baselines.language.model import TunedLanguage
from edge_behavior.baselines.language.rows import Collate
from edge_behavior.baselines.system import FailedTrainingError
from edge_behavior.train.recipe import ATuning, Recipe
from edge_behavior.train.rows.lazy import Rows
from edge_behavior.train.run.checkpoints import MarkComplete, last_checkpoint
from edge_behavior.train.trainer.arguments import batching, hardware, on_one_device, schedule
from edge_behavior.train.trainer.failures import DivergedError
from edge_behavior.train.trainer.progress import run, trainer_callbacks
from edge_behavior.util.files import new_file


@dataclass(frozen=True)
class Step:
    """One tuning step of a system.

    Attributes:
        name: Of its files.
        title: As progress shows it.
        train: Rows of all epochs, in whole batches.
        steps_per_epoch: Optimizer steps of one of them.
        steps: Optimizer steps of all.
        validation: Rows that stop it; None trains to the end.
    """

    name: str
    title: str
    train: Rows
    steps_per_epoch: int
    steps: int
    validation: Rows | None = None


def tune(model: TunedLanguage, step: Step, stage: ATuning, collate: Collate, seed: int, folder: Path) -> None:
    """Train the model's free weights; those of the lowest validation loss are kept, in the model and in `folder`.

    A finished step is read, an interrupted one continued from its last finished checkpoint.

    Raises:
        FailedTrainingError: the loss diverged or is no number.
        EdgebError: a checkpoint is damaged.
    """
    file = folder / f"{step.name}.safetensors"
    if not file.is_file():
        work = folder / step.name
        try:
            weights = _trained(model, step, stage, collate, seed, work)
        except DivergedError as error:
            raise FailedTrainingError(error.message, error.hint) from None
        with new_file(file, replace=True, durable=True) as made:
            save_file(weights, made)
        shutil.rmtree(work)
    model.load_state_dict(load_file(file), strict=False)
    model.to(model.device).eval()


def _trained(
    model: TunedLanguage, step: Step, stage: ATuning, collate: Collate, seed: int, work: Path
) -> dict[str, torch.Tensor]:
    steps = step.steps
    every = max(1, min(round(step.steps_per_epoch / stage.evals_per_epoch), steps))
    selection: dict[str, Any] = {"save_strategy": "steps", "save_steps": every}
    if step.validation is not None:
        selection |= {"eval_strategy": "steps", "eval_steps": every, "load_best_model_at_end": True}
        selection |= {"metric_for_best_model": "eval_loss", "greater_is_better": False}
    checkpoints = work.resolve() / "checkpoints"
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        logging_steps=max(1, steps // 100),
        logging_nan_inf_filter=False,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        label_names=["labels"],
        prediction_loss_only=True,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        **selection,
        **schedule(stage),
        **batching(stage, "a_tuning"),
        **hardware(next(model.language.parameters()).dtype),
    )
    callbacks = trainer_callbacks(step.title, "a_tuning.learning_rate", Recipe(report_to=[]), work)
    callbacks.append(MarkComplete())
    if step.validation is not None:
        callbacks.append(EarlyStoppingCallback(stage.patience))
    trainer: Any = Trainer(
        model=model,
        args=on_one_device(arguments),
        train_dataset=step.train,
        eval_dataset=step.validation,
        data_collator=collate,
        callbacks=callbacks,
    )
    state = run(trainer, last_checkpoint(checkpoints))
    best = state.global_step if step.validation is None else state.best_global_step
    return load_file(checkpoints / f"{PREFIX_CHECKPOINT_DIR}-{best}" / "model.safetensors")
