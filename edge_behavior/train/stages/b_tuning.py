"""B-Tuning by DPO (§3.3, Eq. 4): the A-tuned adapter goes on training against what it said before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from datasets import Dataset as HubDataset
from transformers import TrainerCallback
from trl import DPOConfig

from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.checkpoints import MarkComplete, last_checkpoint
from edge_behavior.train.trainer.arguments import batching, bookkeeping, hardware, on_one_device, schedule
from edge_behavior.train.trainer.lora import in_float32
from edge_behavior.train.trainer.progress import mean_loss, run, trainer_callbacks
from edge_behavior.train.trainer.trl_internals import ScoredDPOTrainer


class PairRow(TypedDict):
    """One preference pair as TRL's collator takes it: token ids, and the reference's log-probability of each answer."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    ref_chosen_logps: float
    ref_rejected_logps: float


def train_dpo(
    model: Any,
    tokenizer: Any,
    rows: Sequence[PairRow],
    recipe: Recipe,
    max_steps: int,
    folder: Path,
    logs: Path,
    callbacks: Sequence[TrainerCallback],
) -> dict[str, Any]:
    """Run DPO on a PEFT model that carries the A-tuned adapter, on rows that come in whole batches.

    The reference is the A-tuned model; its log-probabilities come with the rows, so the first loss is ln 2 and no
    reference forward pass is paid for. The callbacks decide when to save and what to keep. An interrupted call is
    continued from its last finished checkpoint in `folder/checkpoints`.

    Args:
        logs: Folder of the TensorBoard files.

    Returns:
        Steps done, final training loss and the log history.

    Raises:
        EdgebError: the loss is lost, a checkpoint is damaged, or the batch does not fit the processes.
    """
    stage = recipe.b_tuning
    arguments = DPOConfig(
        max_steps=max_steps,
        beta=stage.dpo_beta,
        save_strategy="no",
        logging_steps=max(1, max_steps // 50),
        **bookkeeping(recipe, folder),
        **schedule(stage),
        **batching(stage, "b_tuning"),
        **hardware(model.dtype),
    )
    watch = trainer_callbacks("B-Tuning (DPO)", "b_tuning.learning_rate", recipe, logs)
    trainer = ScoredDPOTrainer(
        model=model,
        args=on_one_device(arguments),
        train_dataset=HubDataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
        callbacks=[*watch, *callbacks, MarkComplete()],
    )
    in_float32(model)
    state = run(trainer, last_checkpoint(Path(str(arguments.output_dir))))
    return {
        "steps": state.global_step,
        "train_loss": mean_loss(state),
        "log": state.log_history,
    }
