"""Checkpoints that survive a kill at any moment: one counts only when it carries the mark of a finished save."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from edge_behavior.errors import EdgebError
from edge_behavior.train.run.folder import read_json, write_json
from edge_behavior.train.trainer.processes import is_main, wait
from edge_behavior.util.checksums import folder_sha256

_MARK = "edgeb-complete.json"


class MarkComplete(TrainerCallback):
    """Writes the checksums of a checkpoint's files beside them once all processes have saved."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint of this step."""
        wait()
        if is_main():
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            # A folder that is saved into again may still carry the mark of before.
            (folder / _MARK).unlink(missing_ok=True)
            write_json(folder / _MARK, {"files": folder_sha256(folder)})
        wait()


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
                "delete that folder; --resume then goes on from the checkpoint before it, or from the stage's start",
            )
    return last


def take_adapter(checkpoint: Path, out: Path) -> None:
    """Copy the PEFT adapter of a checkpoint to the folder `out`, whole or not at all."""
    if is_main():
        building = out.with_name(f".{out.name}")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
            shutil.copy2(checkpoint / name, building / name)
        shutil.rmtree(out, ignore_errors=True)
        building.rename(out)
    wait()
