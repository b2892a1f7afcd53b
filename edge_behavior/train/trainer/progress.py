"""Run a trainer with progress on stderr."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME

from edge_behavior.train.recipe import Recipe
from edge_behavior.train.trainer.failures import LossGuard
from edge_behavior.train.trainer.processes import is_main
from edge_behavior.util.progress import ProgressBar


class _Progress(TrainerCallback):
    def __init__(self, title: str) -> None:
        self._bar = ProgressBar(title, hidden=not is_main())
        self._done: int | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._done = state.global_step
            self._bar.start(state.max_steps, self._done)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._done is not None:
            self._bar.advance(state.global_step - self._done)
            self._done = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if self._done is not None and logs:
            shown = ", ".join(f"{k} {float(logs[k]):.3f}" for k in ("loss", "eval_loss") if k in logs)
            # The latest loss says little: weights of an earlier look may be the ones that are kept.
            if "eval_loss" in logs:
                losses = [float(row["eval_loss"]) for row in state.log_history if "eval_loss" in row]
                shown += f", lowest {min(losses):.3f}"
            if shown:
                self._bar.advance(0, note=shown)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        self._bar.stop()


def trainer_callbacks(title: str, knob: str, recipe: Recipe, logs: Path) -> list[TrainerCallback]:
    """Callbacks of every trainer: progress under `title`, the loss guard, and TensorBoard files.

    Args:
        knob: The recipe field of the stage's learning rate.
        logs: Folder for TensorBoard files, if the recipe wants them.
    """
    found: list[TrainerCallback] = [_Progress(title), LossGuard(title, knob)]
    if "tensorboard" in recipe.report_to and is_main():
        tensorboard: Any = TensorBoardCallback
        found.append(tensorboard(SummaryWriter(log_dir=str(logs))))
    return found


def run(trainer: Any, resume_from: Path | None = None) -> TrainerState:
    """Train, or resume from a checkpoint, and restore the terminal however that ends.

    Trainer's callback that prints logs to stdout is removed: stdout is for `--json`.

    Returns:
        The trainer's state at the end.
    """
    if resume_from is not None:
        before = TrainerState.load_from_json(str(resume_from / TRAINER_STATE_NAME))
        callbacks: Any = before.stateful_callbacks
        stopped = callbacks["TrainerControl"]["args"]["should_training_stop"]
        # Trainer would forget that the stage had stopped early, and continue.
        if stopped or before.global_step >= trainer.args.max_steps:
            done: TrainerState = before
            return done
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, _Progress):
                callback.stop()
        if "wandb" in trainer.args.report_to and is_main():
            # Else this process's next trainer would continue the same run.
            import wandb

            wandb.finish()
    state: TrainerState = trainer.state
    return state


def mean_loss(state: TrainerState) -> float:
    """Mean of the logged training losses, interrupted or not."""
    return fmean(float(row["loss"]) for row in state.log_history if "loss" in row)
