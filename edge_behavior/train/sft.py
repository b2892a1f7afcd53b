"""A-Tuning (§3.2): LoRA SFT of the backbone on rows that already carry their masked labels.

TRL's trainer, PEFT's adapter; what is ours is the rows. Also serves B-Tuning's SFT variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset as HubDataset
from peft import LoraConfig
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTConfig, SFTTrainer

from edge_behavior.errors import EdgebError
from edge_behavior.recipes import LoraSettings, Recipe, StageConfig
from edge_behavior.train.checkpoints import MarkComplete, last_checkpoint, take_adapter
from edge_behavior.train.processes import share_of
from edge_behavior.train.progress import mean_loss, run, trainer_callbacks
from edge_behavior.train.samples import Row

_TITLES = {"a_tuning": "A-Tuning (SFT)", "b_tuning": "B-Tuning (SFT)"}


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


def batching(stage: StageConfig, name: str) -> dict[str, Any]:
    """Trainer arguments for `batch_size` sequences per optimizer step, over all processes, in micro-batches.

    Args:
        name: The stage's section in the recipe, for messages.

    Raises:
        EdgebError: the batch cannot be shared equally by the processes.
    """
    share = share_of(stage.batch_size, f"{name}.batch_size")
    micro = _divisor(share, stage.micro_batch_size)
    return {
        "per_device_train_batch_size": micro,
        # Of the whole batch, so that validation losses do not depend on the number of processes.
        "per_device_eval_batch_size": _divisor(stage.batch_size, stage.micro_batch_size),
        "gradient_accumulation_steps": share // micro,
        "gradient_checkpointing": stage.gradient_checkpointing,
    }


def _divisor(size: int, most: int | None) -> int:
    """The largest divisor of `size` that is not above `most`."""
    return next(n for n in range(min(most or size, size), 0, -1) if size % n == 0)


def hardware() -> dict[str, Any]:
    """Trainer arguments that follow from the machine: bf16 where the GPU has it."""
    cuda = torch.cuda.is_available()
    return {
        "bf16": cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        "dataloader_pin_memory": cuda,
        "use_cpu": not cuda,
        # Every trained weight is in every loss.
        "ddp_find_unused_parameters": False,
    }


def bookkeeping(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Trainer arguments for logs, checkpoints that can be resumed, and the order of rows, which the rows have.

    Raises:
        EdgebError: Weights & Biases is asked for and not installed.
    """
    if "wandb" in recipe.report_to and find_spec("wandb") is None:
        raise EdgebError("report_to names wandb, which is not installed", "pip install wandb, or leave it out")
    return {
        "output_dir": str(folder.resolve() / "checkpoints"),
        "save_total_limit": 2,
        # Early stopping counts on after --resume.
        "restore_callback_states_from_checkpoint": True,
        "train_sampling_strategy": "sequential",
        # TensorBoard's callback is made with its folder, see `trainer_callbacks`.
        "report_to": [name for name in recipe.report_to if name != "tensorboard"] or "none",
        # True would log the last finite loss in place of a NaN.
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "max_length": None,
        "seed": recipe.seed,
    }


def as_dataset(epochs: Sequence[Sequence[Row]]) -> HubDataset:
    """Rows of all epochs, one after the other."""
    rows = [row for epoch in epochs for row in epoch]
    return HubDataset.from_dict(
        {key: [np.asarray(row[key], dtype=np.int32) for row in rows] for key in ("input_ids", "labels")}
    )


def flows_padding_free(model: Any, stage: StageConfig) -> bool:
    """Whether a stage's sequences go end to end without padding: as configured, else where FlashAttention runs."""
    if stage.padding_free is not None:
        return stage.padding_free
    return str(model.config._attn_implementation).startswith("flash")


def train_sft(
    model: Any,
    tokenizer: Any,
    train: HubDataset,
    validation: HubDataset | None,
    recipe: Recipe,
    name: Literal["a_tuning", "b_tuning"],
    steps_per_epoch: int,
    max_steps: int,
    folder: Path,
    logs: Path,
    extra_callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Tune a fresh LoRA adapter (or the one `model` carries) on rows that come in whole batches.

    With `validation` the best adapter by validation loss goes to `folder/adapter`, and training stops after
    `patience` evaluations without a better one; without it the callbacks decide. The loss is computed in tiles over
    label positions (TRL's fused LM head), never as logits of whole sequences. An interrupted call is continued from
    its last finished checkpoint in `folder/checkpoints`.

    Args:
        train: Rows of all epochs in their order, a multiple of the batch size.
        name: The stage, whose settings `recipe` holds.
        logs: Folder of the TensorBoard files.

    Returns:
        Steps done, best validation loss, final training loss and the log history.

    Raises:
        EdgebError: the loss is lost, a checkpoint is damaged, or the batch does not fit the processes.
    """
    stage = recipe.a_tuning if name == "a_tuning" else recipe.b_tuning
    every = max(1, min(round(steps_per_epoch / stage.evals_per_epoch), max_steps))
    fresh = not hasattr(model, "peft_config")
    selection: dict[str, Any] = {"save_strategy": "no"}
    if validation is not None:
        selection = {
            "eval_strategy": "steps",
            "eval_steps": every,
            "save_strategy": "steps",
            "save_steps": every,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
        }
    padding_free = flows_padding_free(model, stage)
    arguments = SFTConfig(
        max_steps=max_steps,
        logging_steps=max(1, max_steps // 100),
        padding_free=padding_free,
        **selection,
        **bookkeeping(recipe, folder),
        **schedule(stage),
        **batching(stage, name),
        **hardware(),
    )
    callbacks = trainer_callbacks(_TITLES[name], f"{name}.learning_rate", recipe, logs)
    callbacks += [*extra_callbacks, MarkComplete()]
    if validation is not None:
        callbacks.append(EarlyStoppingCallback(stage.patience))
    trainer: Any = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        peft_config=lora_config(recipe.lora) if fresh else None,
        callbacks=callbacks,
    )
    checkpoints = Path(str(arguments.output_dir))
    state = run(trainer, last_checkpoint(checkpoints))
    if validation is not None:
        take_adapter(checkpoints / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}", folder / "adapter")
    return {
        "steps": state.global_step,
        "train_loss": mean_loss(state),
        "best_validation_loss": state.best_metric,
        "best_step": state.best_global_step,
        "padding_free": padding_free,
        "log": state.log_history,
    }
