"""A-Tuning (§3.2): LoRA SFT of the backbone on rows that already carry their masked labels.

TRL's trainer, PEFT's adapter; what is ours is the rows. Also serves B-Tuning's SFT variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset as HubDataset
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTConfig, SFTTrainer

from edge_behavior.hf.internals import attention_of
from edge_behavior.train.recipe import Recipe, StageConfig
from edge_behavior.train.rows.lazy import JoinedRows, KeptRows, Row, Rows
from edge_behavior.train.run.checkpoints import MarkComplete, last_checkpoint, take_adapter
from edge_behavior.train.trainer.arguments import batching, bookkeeping, hardware, on_one_device, schedule
from edge_behavior.train.trainer.lora import in_float32, lora_config
from edge_behavior.train.trainer.progress import mean_loss, run, trainer_callbacks

_TITLES = {"a_tuning": "A-Tuning (SFT)", "b_tuning": "B-Tuning (SFT)"}


def as_dataset(epochs: Sequence[Rows | Sequence[Row]]) -> Rows:
    """Rows of all epochs, one after the other."""
    return JoinedRows([epoch if isinstance(epoch, Rows) else KeptRows(epoch) for epoch in epochs])


def flows_padding_free(model: Any, stage: StageConfig) -> bool:
    """Whether a stage's sequences go end to end without padding: as configured, else where FlashAttention runs."""
    if stage.padding_free is not None:
        return stage.padding_free
    return attention_of(model).startswith("flash")


def train_sft(
    model: Any,
    tokenizer: Any,
    train: Rows,
    validation: Rows | None,
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
        **hardware(model.dtype),
    )
    callbacks = trainer_callbacks(_TITLES[name], f"{name}.learning_rate", recipe, logs)
    callbacks += [*extra_callbacks, MarkComplete()]
    if validation is not None:
        callbacks.append(EarlyStoppingCallback(stage.patience))
    trainer: Any = SFTTrainer(
        model=model,
        args=on_one_device(arguments),
        train_dataset=HubDataset.from_list([train[0]]),
        eval_dataset=None if validation is None else HubDataset.from_list([validation[0]]),
        processing_class=tokenizer,
        peft_config=lora_config(recipe.lora) if fresh else None,
        callbacks=callbacks,
    )
    # TRL takes nothing but a `datasets.Dataset` and looks at its first row; the trainer reads any map-style dataset.
    trainer.train_dataset, trainer.eval_dataset = train, validation
    in_float32(trainer.model)
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
