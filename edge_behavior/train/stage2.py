"""B-Tuning end to end: score the pool, select, pair, tune by preference, keep the best weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import balanced_windows, natural_windows
from edge_behavior.encoding import PromptEncoder
from edge_behavior.errors import EdgebError
from edge_behavior.recipes import Recipe
from edge_behavior.runs import write_text
from edge_behavior.train.samples import IGNORED, Row, window_prompt
from edge_behavior.train.scoring_pass import score_windows
from edge_behavior.train.select import Pair, Pool, build_pairs, confusion, difficulty, per_behavior, select

_VALIDATION_PER_BEHAVIOR = 20


def score_pool(model: Any, encoder: PromptEncoder, table: EventTable, recipe: Recipe) -> Pool:
    """Score up to `pool_per_behavior` training windows of every behavior with the A-tuned model (step 2.1)."""
    cap = recipe.b_tuning.pool_per_behavior
    length = encoder.layout.history_length
    targets = balanced_windows(table, cap or len(table), length, seed=recipe.seed)
    if not len(targets):
        raise EdgebError(f"no training user has more than {length} events", "import a longer log")
    scores = score_windows(model, encoder, table, targets, "score the pool", recipe.seed)
    return Pool(targets, table.behavior[targets].astype(np.int64), scores.log_probs, scores.embeddings)


def choose_pairs(pool: Pool, table: EventTable, recipe: Recipe) -> tuple[list[Pair], dict[str, Any]]:
    """Selected pairs, and a summary of the pool and of what each confusion rule would have done."""
    settings, anchors = recipe.b_tuning, table.candidates.anchors(recipe.a_tuning.anchor_threshold)
    d = confusion(pool.truth, pool.predicted, anchors)
    hardness = {
        rule: difficulty(pool.probability, d, settings.difficulty_weight, rule) for rule in ("intended", "as-printed")
    }
    chosen = {rule: select(pool, h, settings, recipe.seed) for rule, h in hardness.items()}
    rule = settings.confusion
    pairs = build_pairs(pool, chosen[rule], hardness[rule])
    labels, size = table.candidates.labels, len(table.candidates)
    pool_counts = np.bincount(pool.truth, minlength=size)
    common = np.intersect1d(chosen["intended"], chosen["as-printed"])
    summary = {
        "pool": len(pool.truth),
        "pool_per_behavior": {label: int(pool_counts[i]) for i, label in enumerate(labels)},
        "pool_accuracy": float((pool.predicted == pool.truth).mean()),
        "within_category_mistakes": float((d == 0).mean()),
        "selected": len(pairs),
        "selected_per_behavior": per_behavior(pool.truth, chosen[rule], labels),
        "without_sample": [label for i, label in enumerate(labels) if not pool_counts[i]],
        "selected_wrong": float((pool.predicted[chosen[rule]] != pool.truth[chosen[rule]]).mean()),
        "mean_difficulty": {name: float(h.mean()) for name, h in hardness.items()},
        "mean_selected_difficulty": float(hardness[rule][chosen[rule]].mean()),
        "shared_by_both_rules": len(common) / max(len(chosen[rule]), 1),
    }
    return pairs, summary


def write_pairs(path: Path, pairs: list[Pair], table: EventTable, encoder: PromptEncoder) -> None:
    """The selected pairs as JSON lines: context, chosen, rejected, p(y|x), D. For people and for resuming."""
    labels = table.candidates.labels
    lines = []
    for pair in pairs:
        event = table.event(pair.target)
        row = {
            "target": pair.target,
            "time": event.time.isoformat(timespec="minutes"),
            "place": event.place,
            "history": [e.behavior for e in table.history(pair.target, encoder.layout.history_length)],
            "chosen": labels[pair.chosen],
            "rejected": labels[pair.rejected],
            "probability": pair.probability,
            "difficulty": pair.difficulty,
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def preference_rows(pairs: list[Pair], table: EventTable, encoder: PromptEncoder, seed: int) -> list[Row]:
    """Token ids of the pairs, as TRL's preference collator takes them."""
    rng = np.random.default_rng(seed)
    labels = table.candidates.labels
    return [
        {
            "prompt_ids": window_prompt(table, encoder, pair.target, int(rng.integers(encoder.layout.formats))),
            "chosen_ids": encoder.label_ids(labels[pair.chosen]),
            "rejected_ids": encoder.label_ids(labels[pair.rejected]),
        }
        for pair in pairs
    ]


def chosen_rows(rows: list[Row]) -> list[Row]:
    """The chosen answers alone as SFT rows (v1 of the paper; ablation "w/o DPO")."""
    return [
        {
            "input_ids": row["prompt_ids"] + row["chosen_ids"],
            "labels": [IGNORED] * len(row["prompt_ids"]) + row["chosen_ids"],
        }
        for row in rows
    ]


class KeepBest(TrainerCallback):
    """Scores validation users before, during and after B-Tuning and puts the best adapter weights back.

    The score is the mean of accuracy on natural windows and mean per-class recall on balanced ones, so that the
    tail cannot be bought with the head. The A-tuned weights take part: if no step beats them, they are kept.
    """

    def __init__(self, model: Any, encoder: PromptEncoder, table: EventTable, recipe: Recipe, every: int) -> None:
        self._model, self._encoder, self._table = model, encoder, table
        self._every, self._patience = max(1, every), recipe.b_tuning.patience
        length, wanted = encoder.layout.history_length, recipe.evaluation.validation_targets // 2
        self._natural = natural_windows(table, length, per_user=20, limit=wanted, seed=recipe.seed)
        balanced = balanced_windows(table, _VALIDATION_PER_BEHAVIOR, length, seed=recipe.seed)
        if len(balanced) > wanted:
            balanced = np.sort(np.random.default_rng(recipe.seed).choice(balanced, wanted, replace=False))
        self._balanced = balanced
        self._best: dict[str, torch.Tensor] = {}
        self._measured = -1
        self.best_step = 0
        self.history: list[dict[str, float]] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Score the A-tuned weights."""
        self._measure(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Score every `every` steps and at the end; stop when nothing improves."""
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            self._measure(state.global_step)
            since = [row["step"] for row in self.history if row["step"] > self.best_step]
            if len(since) >= self._patience:
                control.should_training_stop = True

    def restore(self) -> None:
        """Put the best weights back into the model."""
        set_peft_model_state_dict(self._model, self._best)

    def _measure(self, step: int) -> None:
        if step == self._measured:
            return
        self._measured = step
        both = np.concatenate([self._natural, self._balanced])
        scores = score_windows(self._model, self._encoder, self._table, both, f"validate at step {step}")
        truth = self._table.behavior[both].astype(np.int64)
        right = scores.log_probs.argmax(1) == truth
        accuracy = float(right[: len(self._natural)].mean())
        overall = _mean_recall(right[len(self._natural) :], truth[len(self._natural) :])
        row = {"step": float(step), "accuracy": accuracy, "overall": overall, "score": (accuracy + overall) / 2}
        if not self.history or row["score"] > max(r["score"] for r in self.history):
            self.best_step = step
            state = get_peft_model_state_dict(self._model, adapter_name="default")
            self._best = {name: tensor.detach().clone() for name, tensor in state.items()}
        self.history.append(row)
        Console(stderr=True).print(f"step {step}: validation accuracy {accuracy:.3f}, mean recall {overall:.3f}")


def _mean_recall(right: NDArray[np.bool_], truth: NDArray[np.int64]) -> float:
    hits = np.bincount(truth[right], minlength=int(truth.max()) + 1)
    support = np.bincount(truth)
    return float((hits[support > 0] / support[support > 0]).mean())
