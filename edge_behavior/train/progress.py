"""Live progress of a Hugging Face trainer on stderr, and the guard against a diverging loss."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from edge_behavior.errors import EdgebError


def progress_bar() -> Progress:
    """The progress bar all long work uses: on stderr, with the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


class _Progress(TrainerCallback):
    def __init__(self, title: str) -> None:
        self._title, self._bar = title, progress_bar()
        self._task: TaskID | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=state.max_steps, completed=state.global_step, note="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(float(loss)):
            self._bar.stop()
            raise EdgebError(
                f"{self._title}: the loss became {loss} at step {state.global_step}",
                "lower learning_rate, or use bfloat16 or float32 weights",
            )
        if self._task is not None and logs:
            shown = ", ".join(f"{k} {float(logs[k]):.3f}" for k in ("loss", "eval_loss") if k in logs)
            if shown:
                self._bar.update(self._task, note=shown)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar.stop()


def trainer_callbacks(title: str) -> list[TrainerCallback]:
    """Callbacks for a trainer run with `disable_tqdm=True`."""
    return [_Progress(title)]


def quiet(trainer: Any) -> None:
    """Take out the callback that prints raw log dictionaries to stdout, which belongs to `--json`."""
    trainer.remove_callback(PrinterCallback)
