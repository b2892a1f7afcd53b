"""Shared TrainingArguments: schedule, batches, hardware, logs and checkpoints."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from edge_behavior.errors import EdgebError
from edge_behavior.hf.internals import use_one_gpu
from edge_behavior.train.recipe import Recipe, StageConfig
from edge_behavior.train.trainer.batch_split import micro_batch_of
from edge_behavior.train.trainer.processes import share_of

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def schedule(stage: StageConfig) -> dict[str, Any]:
    """Learning-rate schedule of the paper (§4.1.4): warm-up from the minimum rate, cosine decay back to it."""
    minimum = stage.min_learning_rate
    return {
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": "cosine_warmup_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": minimum, "warmup_lr_rate": minimum / stage.learning_rate},
        # Below one, Trainer takes it as a fraction of the steps.
        "warmup_steps": stage.warmup_ratio,
        "weight_decay": stage.weight_decay,
        "optim": "adamw_torch_fused",
    }


def batching(stage: StageConfig, name: str) -> dict[str, Any]:
    """`batch_size` sequences per optimizer step over all processes, in micro-batches.

    Args:
        name: The stage's section in the recipe, for messages.

    Raises:
        EdgebError: the batch cannot be split equally among the processes.
    """
    share = share_of(stage.batch_size, f"{name}.batch_size")
    micro = micro_batch_of(stage, stage.batch_size // share)
    return {
        "per_device_train_batch_size": micro,
        # From the whole batch, so that validation losses do not depend on the number of processes.
        "per_device_eval_batch_size": micro_batch_of(stage),
        "gradient_accumulation_steps": share // micro,
        "gradient_checkpointing": stage.gradient_checkpointing,
    }


def hardware(dtype: torch.dtype) -> dict[str, Any]:
    """Mixed precision and device: bf16 where the GPU has it, else fp16 for float16 weights; on a CPU by the weights.

    Args:
        dtype: The backbone's. float16 needs loss scaling, or small gradients underflow.
    """
    cuda = torch.cuda.is_available()
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else dtype == torch.bfloat16
    return {
        "bf16": bf16,
        "fp16": cuda and not bf16 and dtype == torch.float16,
        "dataloader_pin_memory": cuda,
        "use_cpu": not cuda,
        # Every loss depends on every trained weight.
        "ddp_find_unused_parameters": False,
    }


def bookkeeping(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Logs, resumable checkpoints, and rows in the order they are given.

    Raises:
        EdgebError: `report_to` names Weights & Biases, which is not installed.
    """
    if "wandb" in recipe.report_to and find_spec("wandb") is None:
        raise EdgebError(
            "report_to names wandb, which is not installed", "pip install wandb, or remove it from report_to"
        )
    return {
        "output_dir": str(folder.resolve() / "checkpoints"),
        "run_name": f"{folder.resolve().parent.name}-{folder.name}",
        "save_total_limit": 2,
        # Early stopping keeps counting after --resume.
        "restore_callback_states_from_checkpoint": True,
        "train_sampling_strategy": "sequential",
        # `trainer_callbacks` adds TensorBoard's callback, with its folder.
        "report_to": [name for name in recipe.report_to if name != "tensorboard"] or "none",
        # True would replace a NaN by the last finite loss.
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "max_length": None,
        "seed": recipe.seed,
    }


def on_one_device(arguments: Arguments) -> Arguments:
    """The arguments of a process that trains on one GPU, whatever the machine has."""
    use_one_gpu(arguments)
    return arguments
