"""DPO of B-Tuning (§3.3, Eq. 4): the A-tuned adapter trains on, with its former self as the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from datasets import Dataset as HubDataset
from transformers import TrainerCallback
from trl import DPOConfig

from edge_behavior.train.run.checkpoints import checkpointing, last_checkpoint
from edge_behavior.train.stage_list import stage_named
from edge_behavior.train.stages.tuning import Tuning
from edge_behavior.train.trainer.arguments import batching, bookkeeping, hardware, on_one_device, schedule
from edge_behavior.train.trainer.lora import in_float32
from edge_behavior.train.trainer.packed import can_pack, packed
from edge_behavior.train.trainer.progress import mean_loss, run, trainer_callbacks
from edge_behavior.train.trainer.trl_internals import ScoredDPOTrainer, score_labels_only


class TokenPair(TypedDict):
    """A preference pair as TRL's collator takes it: token ids, and each answer's reference log-probability."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    ref_chosen_logps: float
    ref_rejected_logps: float


def train_dpo(
    model: Any, tokenizer: Any, pairs: Sequence[TokenPair], tuning: Tuning, callbacks: Sequence[TrainerCallback] = ()
) -> dict[str, Any]:
    """Run DPO on a PEFT model that carries the A-tuned adapter, on pairs that come in whole batches.

    The reference is the A-tuned model; its log-probabilities come with the pairs, so the first loss is ln 2 (but for
    the term that `sft_weight` adds, which has no reference) and no reference forward pass is paid for. The callbacks
    decide when to save and what to keep. An interrupted call continues from its last finished checkpoint.

    Returns:
        Steps done, mean training loss and the log history.

    Raises:
        EdgebError: training diverged, a checkpoint is damaged, or the batch cannot be shared by the processes.
    """
    stage, recipe, max_steps = tuning.recipe.b_tuning, tuning.recipe, tuning.max_steps
    score_labels_only()
    arguments = DPOConfig(
        max_steps=max_steps,
        beta=stage.dpo_beta,
        save_strategy="no",
        logging_steps=max(1, max_steps // 50),
        **bookkeeping(recipe, tuning.folder),
        **schedule(stage),
        **batching(stage, tuning.stage),
        **hardware(model.dtype),
    )
    title = f"{stage_named(tuning.stage).title} (DPO)"
    watch = trainer_callbacks(title, f"{tuning.stage}.learning_rate", recipe, tuning.logs)
    trainer = ScoredDPOTrainer(
        model=model,
        sft_weight=stage.sft_weight,
        args=on_one_device(arguments),
        train_dataset=HubDataset.from_list([dict(pair) for pair in pairs]),
        processing_class=tokenizer,
        callbacks=[*watch, *callbacks, *checkpointing()],
    )
    in_float32(model)
    with packed(model, stage.padding_free is not False and can_pack(model), pairs=True):
        state = run(trainer, last_checkpoint(Path(str(arguments.output_dir))))
    return {
        "steps": state.global_step,
        "train_loss": mean_loss(state),
        "log": state.log_history,
    }
