"""LoRA SFT on rows that carry their masked labels: A-Tuning, and B-Tuning's SFT variant.

TRL trains, PEFT holds the adapter; only the rows are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset as HubDataset
from numpy.typing import NDArray
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTConfig, SFTTrainer

from edge_behavior.hf.internals import attention_of
from edge_behavior.train.recipe import StageConfig
from edge_behavior.train.rows.lazy import Rows
from edge_behavior.train.run.checkpoints import checkpointing, copy_adapter, last_checkpoint
from edge_behavior.train.stage_list import stage_named
from edge_behavior.train.stages.tuning import Tuning
from edge_behavior.train.trainer.arguments import batching, bookkeeping, hardware, on_one_device, schedule
from edge_behavior.train.trainer.lora import in_float32, lora_config
from edge_behavior.train.trainer.packed import can_pack, packed
from edge_behavior.train.trainer.progress import mean_loss, run, trainer_callbacks
from edge_behavior.train.trainer.trl_internals import WeightedSFTTrainer, score_labels_only


def trains_padding_free(model: Any, stage: StageConfig) -> bool:
    """Whether sequences are concatenated instead of padded: as configured, else where attention can take them so."""
    if stage.padding_free is not None:
        return stage.padding_free
    return attention_of(model).startswith("flash") or can_pack(model)


def train_sft(
    model: Any,
    tokenizer: Any,
    train: Rows,
    validation: Rows | None,
    tuning: Tuning,
    extra_callbacks: Sequence[TrainerCallback] = (),
    class_weights: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Tune a fresh LoRA adapter, or the one `model` carries, on rows that come in whole batches.

    With `validation`, the adapter of the best validation loss goes to `adapter` in the tuning's folder, and training
    stops after `patience` evaluations without a better one; without it the callbacks decide. The loss is computed in
    tiles over label positions (TRL's fused LM head), never from logits of whole sequences. An interrupted call
    continues from its last finished checkpoint.

    Args:
        train: Rows of all epochs in order, a multiple of the batch size.
        class_weights: [B] factor of the loss of every label, training and validation, in rows with `classes`; other
            tokens keep theirs, and the sum is divided by the number of tokens as without.

    Returns:
        Steps done, best validation loss, mean training loss and the log history.

    Raises:
        EdgebError: training diverged, a checkpoint is damaged, or the batch cannot be shared by the processes.
    """
    stage, recipe, max_steps = tuning.settings, tuning.recipe, tuning.max_steps
    every = max(1, min(round(tuning.steps_per_epoch / stage.evals_per_epoch), max_steps))
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
    padding_free = trains_padding_free(model, stage)
    score_labels_only()
    packs = padding_free and can_pack(model)
    arguments = SFTConfig(
        max_steps=max_steps,
        logging_steps=max(1, max_steps // 100),
        # TRL's own way is for FlashAttention.
        padding_free=padding_free and not packs,
        **selection,
        **bookkeeping(recipe, tuning.folder),
        **schedule(stage),
        **batching(stage, tuning.stage),
        **hardware(model.dtype),
    )
    title = f"{stage_named(tuning.stage).title} (SFT)"
    callbacks = trainer_callbacks(title, f"{tuning.stage}.learning_rate", recipe, tuning.logs)
    callbacks += [*extra_callbacks, *checkpointing()]
    if validation is not None:
        callbacks.append(EarlyStoppingCallback(stage.patience))
    make: Any = SFTTrainer if class_weights is None else partial(WeightedSFTTrainer, class_weights)
    trainer = make(
        model=model,
        args=on_one_device(arguments),
        train_dataset=HubDataset.from_list([train[0]]),
        eval_dataset=None if validation is None else HubDataset.from_list([validation[0]]),
        processing_class=tokenizer,
        peft_config=lora_config(recipe.lora) if fresh else None,
        callbacks=callbacks,
    )
    # TRL's constructor wants a `datasets.Dataset` and looks at its first row; training reads any map-style dataset.
    trainer.train_dataset, trainer.eval_dataset = train, validation
    in_float32(trainer.model)
    checkpoints = Path(str(arguments.output_dir))
    with packed(trainer.model, packs):
        state = run(trainer, last_checkpoint(checkpoints))
    if validation is not None:
        copy_adapter(checkpoints / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}", tuning.folder / "adapter")
    return {
        "steps": state.global_step,
        "train_loss": mean_loss(state),
        "best_validation_loss": state.best_metric,
        "best_step": state.best_global_step,
        "padding_free": padding_free,
        "log": state.log_history,
    }
