"""Checkpoints that survive a kill at any moment: one counts only when it carries the mark of a finished save."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from time import monotonic
from typing import Any

from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from edge_behavior.errors import EdgebError
from edge_behavior.train.run.folder import read_json, replaced_folder, write_json
from edge_behavior.train.trainer.processes import gathered, is_main, wait
from edge_behavior.util.checksums import folder_sha256

_MARK = "edgeb-complete.json"
# Most of a training that a kill loses, whatever the steps between two looks at validation windows.
SAVE_SECONDS = 600.0
# Steps that tell how long one takes, after one that does not.
_TIMED_STEPS = 4


class SaveInTime(TrainerCallback):
    """Asks for a checkpoint about every `SAVE_SECONDS` of training.

    How many steps that is, the main process's clock decides early on, so that all processes save at the same steps.
    """

    def __init__(self) -> None:
        self._taken: list[float] = []
        self._every = 0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self._begun = monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Time the first steps; then ask when it is time."""
        if not self._every:
            self._taken.append(monotonic() - self._begun)
            if len(self._taken) <= _TIMED_STEPS:
                return
            steps = SAVE_SECONDS * _TIMED_STEPS / max(sum(self._taken[1:]), 1e-9)
            self._every = gathered([max(1, math.ceil(steps))])[0]
        if state.global_step % self._every == 0:
            control.should_save = True


class MarkComplete(TrainerCallback):
    """Writes the checksums of a checkpoint's files beside them once all processes have saved."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint of this step."""
        wait()
        if is_main():
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            # A folder that is saved into again may still carry its earlier mark.
            (folder / _MARK).unlink(missing_ok=True)
            write_json(folder / _MARK, {"files": folder_sha256(folder)})
        wait()


def checkpointing() -> list[TrainerCallback]:
    """What every trainer needs so that `last_checkpoint` finds what it has done."""
    return [SaveInTime(), MarkComplete()]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest finished checkpoint in `folder`; half-written ones are deleted.

    Raises:
        EdgebError: its files are not those that were saved.
    """
    found = sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    complete = [path for path in found if (path / _MARK).is_file()]
    if is_main():
        for path in set(found) - set(complete):
            shutil.rmtree(path)
    wait()
    if not complete:
        return None
    last = complete[-1]
    now = folder_sha256(last)
    for name, checksum in read_json(last / _MARK)["files"].items():
        if now.get(name) != checksum:
            raise EdgebError(
                f"checkpoint {last} is damaged: {name} is not the file that was saved",
                "delete that folder; --resume then continues from the checkpoint before it, or from the stage's start",
            )
    return last


def copy_adapter(checkpoint: Path, out: Path) -> None:
    """Copy the PEFT adapter of a checkpoint to the folder `out`, replacing it."""
    if is_main():
        with replaced_folder(out) as made:
            for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
                shutil.copy2(checkpoint / name, made / name)
    wait()
