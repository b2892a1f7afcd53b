"""The tuning steps of a `TunedLanguage`: each trains its free weights once, and is read from its folder after that."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from edge_behavior.baselines.language.model import TunedLanguage
from edge_behavior.baselines.language.rows import Collate
from edge_behavior.baselines.system import FailedTrainingError
from edge_behavior.baselines.trained import Spent, TrainingPlan, save_trained, train_best
from edge_behavior.train.recipe import ATuning
from edge_behavior.train.rows.lazy import Rows
from edge_behavior.train.trainer.arguments import batching, schedule
from edge_behavior.train.trainer.failures import DivergedError


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
            weights, spent = _trained(model, step, stage, collate, seed, work)
        except DivergedError as error:
            raise FailedTrainingError(error.message, error.hint) from None
        save_trained(weights, file, spent)
        shutil.rmtree(work)
    model.load_state_dict(load_file(file), strict=False)
    model.to(model.device).eval()


def _trained(
    model: TunedLanguage, step: Step, stage: ATuning, collate: Collate, seed: int, work: Path
) -> tuple[dict[str, torch.Tensor], Spent]:
    plan = TrainingPlan(
        title=step.title,
        rate="a_tuning.learning_rate",
        steps=step.steps,
        every=max(1, min(round(step.steps_per_epoch / stage.evals_per_epoch), step.steps)),
        patience=stage.patience,
        log_every=max(1, step.steps // 100),
        seed=seed,
        answers="labels",
        dtype=next(model.language.parameters()).dtype,
        own={**schedule(stage), **batching(stage, "a_tuning")},
    )
    return train_best(model, plan, step.train, step.validation, collate, work)
