"""B-Tuning by DPO (§3.3, Eq. 4): the A-tuned adapter goes on training, a frozen copy of it is the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset as HubDataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from edge_behavior.recipes import Recipe
from edge_behavior.train.progress import quiet, trainer_callbacks
from edge_behavior.train.sft import batching, hardware, schedule

PairRow = dict[str, list[int]]


class _TokenizedDPOTrainer(DPOTrainer):
    """TRL's trainer on rows that are token ids already.

    TRL tokenizes prompt and completion as one text and appends EOS, which would give the stream layout other
    tokens than the runtime's; the collator itself takes prompt_ids, chosen_ids and rejected_ids.
    """

    def _prepare_dataset(self, dataset: HubDataset, *_: Any, **__: Any) -> HubDataset:
        return dataset


def train_dpo(
    model: Any,
    tokenizer: Any,
    rows: Sequence[PairRow],
    recipe: Recipe,
    max_steps: int,
    folder: Path,
    callbacks: Sequence[TrainerCallback],
) -> dict[str, Any]:
    """Run DPO on a PEFT model that carries the A-tuned adapter.

    TRL copies the adapter to a frozen `ref` before the first step, so the first loss is ln 2. The caller saves the
    adapter (its selection callback knows the best weights).

    Returns:
        Steps done, final training loss and the log history.
    """
    stage = recipe.b_tuning
    arguments = DPOConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=max_steps,
        beta=stage.dpo_beta,
        max_length=None,
        save_strategy="no",
        logging_steps=max(1, max_steps // 50),
        report_to=["tensorboard"],
        disable_tqdm=True,
        seed=recipe.seed,
        **schedule(stage),
        **batching(stage),
        **hardware(),
    )
    dataset = HubDataset.from_list([dict(row) for row in rows])
    trainer = _TokenizedDPOTrainer(
        model=model,
        ref_model=None,
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[*trainer_callbacks("B-Tuning (DPO)"), *callbacks],
    )
    quiet(trainer)
    result = trainer.train()
    return {
        "steps": trainer.state.global_step,
        "train_loss": float(result.training_loss),
        "log": trainer.state.log_history,
    }
