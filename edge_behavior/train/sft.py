"""A-Tuning (§3.2): LoRA SFT of the backbone on rows that already carry their masked labels.

TRL's trainer, PEFT's adapter; what is ours is the rows. Also serves B-Tuning's SFT variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset as HubDataset
from peft import LoraConfig
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from edge_behavior.recipes import LoraSettings, Recipe, StageConfig
from edge_behavior.train.progress import quiet, trainer_callbacks
from edge_behavior.train.samples import Row


def lora_config(settings: LoraSettings) -> LoraConfig:
    """PEFT's LoRA configuration for a recipe."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )


def schedule(stage: StageConfig) -> dict[str, Any]:
    """Trainer arguments of the paper's schedule: warm-up from the minimum rate, cosine back to it (§4.1.4)."""
    floor = stage.min_learning_rate
    return {
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": "cosine_warmup_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": floor, "warmup_lr_rate": floor / stage.learning_rate},
        # Below one, Trainer reads it as a share of the steps.
        "warmup_steps": stage.warmup_ratio,
        "weight_decay": stage.weight_decay,
        "optim": "adamw_torch_fused",
    }


def batching(stage: StageConfig) -> dict[str, Any]:
    """Trainer arguments for `batch_size` sequences per optimizer step in micro-batches."""
    micro = min(stage.micro_batch_size or stage.batch_size, stage.batch_size)
    while stage.batch_size % micro:
        micro -= 1
    return {
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": stage.batch_size // micro,
        "gradient_checkpointing": stage.gradient_checkpointing,
    }


def hardware() -> dict[str, Any]:
    """Trainer arguments that follow from the machine: bf16 where the GPU has it."""
    cuda = torch.cuda.is_available()
    return {
        "bf16": cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        "dataloader_pin_memory": cuda,
        "use_cpu": not cuda,
    }


def as_dataset(epochs: Sequence[Sequence[Row]]) -> HubDataset:
    """Rows of all epochs, one after the other."""
    rows = [row for epoch in epochs for row in epoch]
    return HubDataset.from_dict(
        {key: [np.asarray(row[key], dtype=np.int32) for row in rows] for key in ("input_ids", "labels")}
    )


def train_sft(
    model: Any,
    tokenizer: Any,
    train: HubDataset,
    validation: HubDataset,
    recipe: Recipe,
    stage: StageConfig,
    steps_per_epoch: int,
    max_steps: int,
    folder: Path,
    title: str,
    extra_callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Tune a fresh LoRA adapter (or the one `model` carries) and save the best one to `folder/adapter`.

    The best checkpoint by validation loss is kept, and training stops after `stage.patience` evaluations without
    a better one. An interrupted call is continued from its last checkpoint in `folder/checkpoints`.

    Returns:
        Steps done, best validation loss, final training loss and the log history.
    """
    every = max(1, min(round(steps_per_epoch / stage.evals_per_epoch), max_steps))
    fresh = not hasattr(model, "peft_config")
    arguments = SFTConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=max_steps,
        max_length=None,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=max(1, max_steps // 100),
        train_sampling_strategy="group_by_length",
        report_to=["tensorboard"],
        disable_tqdm=True,
        seed=recipe.seed,
        **schedule(stage),
        **batching(stage),
        **hardware(),
    )
    trainer: Any = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        peft_config=lora_config(recipe.lora) if fresh else None,
        callbacks=[*trainer_callbacks(title), EarlyStoppingCallback(stage.patience), *extra_callbacks],
    )
    quiet(trainer)
    checkpoints = folder / "checkpoints"
    find: Any = get_last_checkpoint
    last = find(str(checkpoints)) if checkpoints.is_dir() else None
    result = trainer.train(resume_from_checkpoint=last)
    trainer.model.save_pretrained(folder / "adapter")
    return {
        "steps": trainer.state.global_step,
        "train_loss": float(result.training_loss),
        "best_validation_loss": trainer.state.best_metric,
        "best_step": trainer.state.best_global_step,
        "log": trainer.state.log_history,
    }
