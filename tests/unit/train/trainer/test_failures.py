"""Machines fail and losses run away: one line each, with the knob to turn."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import ATuning, BackboneConfig, Recipe
from edge_behavior.train.trainer.failures import LossGuard, explained

RUN = Path("runs/x")


def feed(losses: list[float], tmp_path: Path) -> None:
    guard, state = LossGuard("A-Tuning", "a_tuning.learning_rate"), TrainerState()
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    for step, loss in enumerate(losses, 1):
        state.global_step = step
        state.log_history.append({"loss": loss, "step": step})
        guard.on_log(arguments, state, TrainerControl(), {"loss": loss})
        guard.on_log(arguments, state, TrainerControl(), {"eval_loss": 99.0})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops(bad: float, tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match=r"the loss became (nan|inf) at step 3") as caught:
        feed([2.0, 1.5, bad], tmp_path)
    assert "a_tuning.learning_rate" in caught.value.hint


def test_divergence_stops_and_single_spikes_do_not(tmp_path: Path) -> None:
    feed([2.0, *[1.5, 9.0, 1.4, 9.0, 1.3] * 6], tmp_path)
    feed([2.0] * 30, tmp_path)
    with pytest.raises(EdgebError, match=r"diverged, from 2\.000 to 5\.000"):
        feed([2.0, 1.8, *[5.0] * 12], tmp_path)


def test_one_lucky_batch_is_no_start(tmp_path: Path) -> None:
    """With one label per row the first of these batches had less than half of the usual loss."""
    feed([0.31, 0.84, 0.91, 0.78, 0.86, *[0.85] * 10], tmp_path)


def test_out_of_memory_names_the_knobs_that_are_left() -> None:
    real = BackboneConfig(path="Qwen/Qwen2-1.5B")
    recipe = Recipe(backbone=real, a_tuning=ATuning(micro_batch_size=4))
    found = explained(torch.OutOfMemoryError("CUDA out of memory"), "a_tuning", recipe, RUN)
    assert found is not None
    assert found.message == "out of memory during a_tuning"
    for knob in ("gradient_checkpointing=true", "micro_batch_size (now 4)", "stretch_max (now 40)", "quantize=4bit"):
        assert knob in found.hint
    tuned = Recipe(
        backbone=real.model_copy(update={"quantize": "4bit"}),
        a_tuning=ATuning(micro_batch_size=1, gradient_checkpointing=True),
    )
    left = explained(MemoryError(), "a_tuning", tuned, RUN)
    assert left is not None
    assert "micro_batch_size" not in left.hint
    assert "checkpointing" not in left.hint
    assert "4bit" not in left.hint


def test_the_cpu_allocator_s_own_words_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    found = explained(caught.value, "backbone", Recipe(), RUN)
    assert found is not None
    assert "pretrain_batch_size" in found.hint


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_drivers_and_libraries_say_it_in_words(error: Exception) -> None:
    found = explained(error, "a_tuning", Recipe(), RUN)
    assert found is not None
    assert found.message == "out of memory during a_tuning"


def test_what_scoring_has_said_already_stays(tmp_path: Path) -> None:
    assert explained(EdgebError("out of memory while scoring windows"), "b_tuning", Recipe(), RUN) is None


def test_a_full_disk_says_how_to_go_on() -> None:
    found = explained(OSError(errno.ENOSPC, "No space left on device"), "b_tuning", Recipe(), RUN)
    assert found is not None
    assert "edgeb train --resume --out runs/x" in found.hint


def test_other_errors_are_left_alone() -> None:
    assert explained(ValueError("x"), "a_tuning", Recipe(), RUN) is None
