"""The guard of the loss stops what diverges, and nothing that is only noisy."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from edge_behavior.errors import EdgebError
from edge_behavior.train.failures import LossGuard


def guarded(losses: list[float], folder: Path) -> None:
    """Log the losses one by one, as a trainer does."""
    guard, state = LossGuard("A-Tuning", "a_tuning.learning_rate"), TrainerState()
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True)
    for step, loss in enumerate(losses, 1):
        state.global_step = step
        state.log_history.append({"loss": loss})
        guard.on_log(arguments, state, TrainerControl(), {"loss": loss})


def test_one_lucky_batch_is_no_start(tmp_path: Path) -> None:
    """Seen with one label per row: the first of these batches has less than half of the usual loss."""
    guarded([0.31, 0.84, 0.91, 0.78, 0.86] + [0.85] * 10, tmp_path)


def test_a_loss_that_leaves_its_start_behind_stops_the_stage(tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match=r"diverged, from 0\.900 to 2\.500"):
        guarded([0.9] * 5 + [2.5] * 10, tmp_path)


def test_no_number_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match="became nan at step 2"):
        guarded([0.9, float("nan")], tmp_path)
