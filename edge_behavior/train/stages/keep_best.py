"""Keeps the adapter that predicts validation users best during B-Tuning, through kills and restarts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peft import get_peft_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import balanced_windows, natural_windows
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.checkpoints import take_adapter
from edge_behavior.train.run.folder import read_json, write_json
from edge_behavior.train.stages.scoring import draw_formats, score_windows
from edge_behavior.train.trainer.processes import console, is_main, wait

_PER_BEHAVIOR = 20
_HISTORY = "history.json"


class KeepBest(TrainerCallback):
    """Scores validation users before, during and after B-Tuning and keeps the best adapter in a folder.

    The score is the mean of accuracy on natural windows and mean per-class recall on balanced ones, so that the
    tail cannot be bought with the head. The A-tuned weights take part: if no step beats them, they are kept.
    A checkpoint is saved at every measurement, and every best adapter stays until the stage's end, so that a stage
    resumed at any checkpoint knows what was best before.

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
        self._tokens_per_pass = recipe.scoring.tokens_per_pass
        length, wanted = encoder.layout.history_length, recipe.evaluation.validation_targets // 2
        self._natural = natural_windows(table, length, per_user=20, limit=wanted, seed=recipe.seed)
        balanced = balanced_windows(table, _PER_BEHAVIOR, length, seed=recipe.seed)
        if len(balanced) > wanted:
            balanced = np.sort(np.random.default_rng(recipe.seed).choice(balanced, wanted, replace=False))
        self._balanced = balanced
        self.history: list[dict[str, float]] = []

    @property
    def best_step(self) -> int:
        """Step with the best score; the earliest among equals."""
        return int(max(self.history, key=lambda row: (row["score"], -row["step"]))["step"])

    @property
    def best(self) -> Path:
        """Folder of the best adapter."""
        return self._folder / f"step-{self.best_step}"

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Score the A-tuned weights, or read what was measured before the checkpoint that is resumed."""
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
            since = [row["step"] for row in self.history if row["step"] > self.best_step]
            if len(since) >= self._patience:
                control.should_training_stop = True

    def recall(self, step: int) -> None:
        """Take the measurements up to a step from the folder."""
        rows = read_json(self._folder / _HISTORY)["measured"]
        self.history = [row for row in rows if row["step"] <= step]

    def keep(self, out: Path) -> None:
        """Copy the best adapter to `out`."""
        take_adapter(self.best, out)

    def _measure(self, step: int) -> None:
        both = np.concatenate([self._natural, self._balanced])
        formats = draw_formats(self._encoder, len(both), self._seed)
        scores = score_windows(
            self._model,
            self._encoder,
            self._table,
            both,
            formats,
            f"validate at step {step}",
            lockstep=self._sharded,
            tokens_per_pass=self._tokens_per_pass,
        )
        truth = self._table.behavior[both].astype(np.int64)
        right = scores.log_probs.argmax(1) == truth
        accuracy = float(right[: len(self._natural)].mean())
        overall = _mean_recall(right[len(self._natural) :], truth[len(self._natural) :])
        row = {"step": float(step), "accuracy": accuracy, "overall": overall, "score": (accuracy + overall) / 2}
        self.history.append(row)
        if self.best_step == step:
            self._save(self.best)
        if is_main():
            write_json(self._folder / _HISTORY, {"measured": self.history})
        console().print(f"step {step}: validation accuracy {accuracy:.3f}, mean recall {overall:.3f}")

    @property
    def _sharded(self) -> bool:
        """Whether the weights are spread over processes (FSDP), which must then all compute the same."""
        return any(isinstance(p, DTensor) for p in self._model.parameters())

    def _save(self, out: Path) -> None:
        weights = get_peft_model_state_dict(self._model, adapter_name="default")
        # Gathering is a joint act of all processes.
        whole = {n: (t.full_tensor() if isinstance(t, DTensor) else t).detach().cpu() for n, t in weights.items()}
        if is_main():
            building = out.with_name(f".{out.name}")
            shutil.rmtree(building, ignore_errors=True)
            self._model.save_pretrained(str(building), state_dict=whole, selected_adapters=["default"])
            shutil.rmtree(out, ignore_errors=True)
            building.rename(out)
        wait()


def _mean_recall(right: NDArray[np.bool_], truth: NDArray[np.int64]) -> float:
    hits = np.bincount(truth[right], minlength=int(truth.max()) + 1)
    support = np.bincount(truth)
    return float((hits[support > 0] / support[support > 0]).mean())
