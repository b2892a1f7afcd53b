"""Keeps B-Tuning's best adapter by a score on validation users, through kills and restarts."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peft import get_peft_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.search import Goal
from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import balanced_windows, natural_windows
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.metrics import mean_recall
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.rows.windows import WindowSet, draw_formats
from edge_behavior.train.run.checkpoints import copy_adapter
from edge_behavior.train.run.folder import read_json, replaced_folder, write_json
from edge_behavior.train.stages.scoring import REBASE, ScoringPass, score_windows
from edge_behavior.train.trainer.processes import console, is_main, wait

_PER_BEHAVIOR = 20
_HISTORY = "history.json"


@dataclass(frozen=True)
class Measurement:
    """Scores of the validation users at one step.

    Attributes:
        step: A whole number; 0 is the A-tuned model.
        accuracy: On natural windows.
        overall: Mean recall per behavior on balanced windows.
        score: Mean of both, so that the tail is not bought with the head.
    """

    step: float
    accuracy: float
    overall: float
    score: float


class KeepBest(TrainerCallback):
    """Scores validation users before, during and after B-Tuning and keeps the best adapter in a folder.

    The A-tuned weights take part: if no step beats them, they are kept. A checkpoint is saved at every measurement, and
    every adapter that was the best stays until the stage ends, so that a stage resumed at any checkpoint knows what was
    best before it.

    Args:
        model: The PEFT model that is trained.
        folder: Holds `step-N` adapters and the measurements.
        every: Steps between measurements.
    """

    def __init__(
        self, model: Any, encoder: PromptEncoder, table: EventTable, recipe: Recipe, folder: Path, every: int
    ) -> None:
        self._model, self._encoder, self._table, self._folder = model, encoder, table, folder
        self._every, self._patience, self._seed = max(1, every), recipe.b_tuning.patience, recipe.seed
        self._scoring = recipe.scoring
        length, wanted = encoder.layout.history_length, recipe.evaluation.validation_targets // 2
        self._natural = natural_windows(table, length, per_user=20, limit=wanted, seed=recipe.seed)
        balanced = balanced_windows(table, _PER_BEHAVIOR, length, seed=recipe.seed)
        if len(balanced) > wanted:
            balanced = np.sort(np.random.default_rng(recipe.seed).choice(balanced, wanted, replace=False))
        self._balanced = balanced
        self.history: list[Measurement] = []

    @property
    def best_step(self) -> int:
        """Step with the best score; the earliest of equal ones."""
        return int(max(self.history, key=lambda m: (m.score, -m.step)).step)

    @property
    def best(self) -> Path:
        """Folder of the best adapter."""
        return self._folder / f"step-{self.best_step}"

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Score the A-tuned weights, or read what was measured up to the checkpoint that is resumed."""
        if state.global_step:
            self.recall(state.global_step)
        else:
            if is_main():
                shutil.rmtree(self._folder, ignore_errors=True)
            wait()
            self._measure(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Score every `every` steps and at the end; stop when nothing improves."""
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            self._measure(state.global_step)
            control.should_save = True
            if sum(m.step > self.best_step for m in self.history) >= self._patience:
                control.should_training_stop = True

    def recall(self, step: int) -> None:
        """Read the measurements up to a step from the folder.

        Raises:
            EdgebError: they are missing or damaged.
        """
        file = self._folder / _HISTORY
        try:
            measured = [Measurement(**fields) for fields in read_json(file)["measured"]]
        except (KeyError, TypeError) as error:
            hint = f"delete {self._folder.parent}: --resume then redoes the stage"
            raise EdgebError(f"{file} is damaged: {error}", hint) from None
        self.history = [m for m in measured if m.step <= step]

    def keep(self, out: Path) -> None:
        """Copy the best adapter to `out`."""
        copy_adapter(self.best, out)

    def _measure(self, step: int) -> None:
        both = np.concatenate([self._natural, self._balanced])
        formats = draw_formats(self._encoder, len(both), self._seed)
        windows = WindowSet(self._table, both, formats, REBASE[self._scoring.windows])
        # Who comes first is all that is measured.
        tokens = self._scoring.tokens_per_pass
        scoring = ScoringPass(f"validate at step {step}", tokens, Goal(1), lockstep=self._sharded)
        scores = score_windows(self._model, self._encoder, windows, scoring)
        truth = self._table.behavior[both].astype(np.int64)
        right = scores.log_probs.argmax(1) == truth
        accuracy = float(right[: len(self._natural)].mean())
        overall = mean_recall(right[len(self._natural) :], truth[len(self._natural) :])
        self.history.append(Measurement(float(step), accuracy, overall, (accuracy + overall) / 2))
        if self.best_step == step:
            self._save(self.best)
        if is_main():
            write_json(self._folder / _HISTORY, {"measured": [asdict(m) for m in self.history]})
        console().print(f"step {step}: validation accuracy {accuracy:.3f}, mean recall {overall:.3f}")

    @property
    def _sharded(self) -> bool:
        """Whether the weights are spread over processes (FSDP), which must then all score the same windows."""
        return any(isinstance(p, DTensor) for p in self._model.parameters())

    def _save(self, out: Path) -> None:
        weights = get_peft_model_state_dict(self._model, adapter_name="default")
        # Every process takes part in gathering.
        whole = {n: (t.full_tensor() if isinstance(t, DTensor) else t).detach().cpu() for n, t in weights.items()}
        if is_main():
            with replaced_folder(out) as made:
                self._model.save_pretrained(str(made), state_dict=whole, selected_adapters=["default"])
        wait()
