"""What every trainer of a run is told: schedule, batches, hardware, logs and checkpoints."""

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
    micro = micro_batch_of(stage, stage.batch_size // share)
    return {
        "per_device_train_batch_size": micro,
        # Of the whole batch, so that validation losses do not depend on the number of processes.
        "per_device_eval_batch_size": micro_batch_of(stage),
        "gradient_accumulation_steps": share // micro,
        "gradient_checkpointing": stage.gradient_checkpointing,
    }


def hardware(dtype: torch.dtype) -> dict[str, Any]:
    """Trainer arguments that follow from the machine: bf16 where the GPU has it, else float16 as the weights are.

    Args:
        dtype: Of the backbone's weights. float16 needs the loss scaled, or small gradients are lost.
    """
    cuda = torch.cuda.is_available()
    bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    return {
        "bf16": bf16,
        "fp16": cuda and not bf16 and dtype == torch.float16,
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
        "run_name": f"{folder.resolve().parent.name}-{folder.name}",
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


def on_one_device(arguments: Arguments) -> Arguments:
    """The arguments of a process that trains on one GPU, whatever the machine has."""
    use_one_gpu(arguments)
    return arguments
