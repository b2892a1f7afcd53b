"""The preference pairs of B-Tuning: the pool is scored, difficult samples selected, truths paired with mistakes.

The pool is a sample of the training windows of every behavior.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.data.dataset import EventTable
from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.rows.lazy import IGNORED, Row
from edge_behavior.train.rows.samples import pool_windows, window_prompt
from edge_behavior.train.rows.windows import WindowSet, draw_formats
from edge_behavior.train.run.folder import write_text
from edge_behavior.train.stages.dpo import TokenPair
from edge_behavior.train.stages.scoring import ScoringPass, proving, score_windows
from edge_behavior.train.stages.select import Pair, Pool, build_pairs, confusion, difficulty, per_behavior, select


@dataclass(frozen=True)
class PoolSummary:
    """What the stage's report says of the pool and the pairs.

    Attributes:
        pool: Scored windows.
        pool_per_behavior: By label.
        pool_accuracy: Of the A-tuned model on the pool.
        within_category_mistakes: Share of the pool where a label of the truth's category was predicted.
        selected: Pairs.
        selected_per_behavior: By label.
        without_sample: Labels that no training window ends with.
        selected_wrong: Share of the pairs where the model was wrong.
        mean_difficulty: Of the pool, by rule of the confusion term.
        mean_selected_difficulty: Of the pairs.
        shared_by_both_rules: Share of the pairs that the other rule would have selected as well.
    """

    pool: int
    pool_per_behavior: dict[str, int]
    pool_accuracy: float
    within_category_mistakes: float
    selected: int
    selected_per_behavior: dict[str, int]
    without_sample: list[str]
    selected_wrong: float
    mean_difficulty: dict[str, float]
    mean_selected_difficulty: float
    shared_by_both_rules: float


def score_pool(model: Any, encoder: PromptEncoder, table: EventTable, recipe: Recipe, shards: Path) -> Pool:
    """Score up to `pool_per_behavior` training windows of every behavior with the A-tuned model (step 2.1).

    One pass gives all that B-Tuning needs: ŷ, the runner-up, E(x) and DPO's reference log-probabilities, and p(y|x)
    within `scoring.bound` nats.

    Args:
        shards: Folder that keeps the scores, so that an interrupted pass can be resumed.

    Raises:
        EdgebError: no window, or see `score_windows`.
    """
    length = encoder.layout.history_length
    targets = pool_windows(table, encoder, recipe)
    if not len(targets):
        raise EdgebError(f"no training user has more than {length} events", "import a longer log")
    formats = draw_formats(encoder, len(targets), recipe.seed)
    # The runner-up stands against the truth where that comes first.
    goal = proving(2, recipe.scoring.bound)
    scoring = ScoringPass("score the pool", recipe.scoring.tokens_per_pass, goal, shards, embeddings=True)
    windows = WindowSet(table, targets, formats)
    scores = score_windows(model, encoder, windows, scoring)
    return Pool(targets, windows.truth, formats, scores.log_probs, scores.embeddings)


def choose_pairs(pool: Pool, table: EventTable, recipe: Recipe) -> tuple[list[Pair], PoolSummary]:
    """Selected pairs, and a summary of them and of the pool."""
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
    summary = PoolSummary(
        pool=len(pool.truth),
        pool_per_behavior={label: int(pool_counts[i]) for i, label in enumerate(labels)},
        pool_accuracy=float((pool.predicted == pool.truth).mean()),
        within_category_mistakes=float((d == 0).mean()),
        selected=len(pairs),
        selected_per_behavior=per_behavior(pool.truth, chosen[rule], labels),
        without_sample=[label for i, label in enumerate(labels) if not pool_counts[i]],
        selected_wrong=float((pool.predicted[chosen[rule]] != pool.truth[chosen[rule]]).mean()),
        mean_difficulty={name: float(h.mean()) for name, h in hardness.items()},
        mean_selected_difficulty=float(hardness[rule][chosen[rule]].mean()),
        shared_by_both_rules=len(common) / max(len(chosen[rule]), 1),
    )
    return pairs, summary


def write_pairs(path: Path, pairs: list[Pair], table: EventTable, encoder: PromptEncoder) -> None:
    """The selected pairs as JSON lines: context, chosen, rejected, p(y|x), D. The report shows some of them."""
    labels = table.candidates.labels
    lines = []
    for pair in pairs:
        event = table.event(pair.target)
        record = {
            "target": pair.target,
            "time": event.time.isoformat(timespec="minutes"),
            "place": event.place,
            "history": [e.behavior for e in table.history(pair.target, encoder.layout.history_length)],
            "chosen": labels[pair.chosen],
            "rejected": labels[pair.rejected],
            "probability": pair.probability,
            "difficulty": pair.difficulty,
        }
        lines.append(json.dumps(record, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def tokenized(pairs: list[Pair], table: EventTable, encoder: PromptEncoder) -> list[TokenPair]:
    """Token ids and reference log-probabilities of the pairs, each in the wording in which the pool was scored."""
    labels = table.candidates.labels
    return [
        {
            "prompt_ids": window_prompt(table, encoder, pair.target, pair.format),
            "chosen_ids": encoder.label_ids(labels[pair.chosen]),
            "rejected_ids": encoder.label_ids(labels[pair.rejected]),
            "ref_chosen_logps": pair.chosen_log_prob,
            "ref_rejected_logps": pair.rejected_log_prob,
        }
        for pair in pairs
    ]


def chosen_rows(pairs: list[TokenPair]) -> list[Row]:
    """The chosen answers alone as SFT rows (v1 of the paper; ablation "w/o DPO")."""
    return [
        {
            "input_ids": pair["prompt_ids"] + pair["chosen_ids"],
            "labels": [IGNORED] * len(pair["prompt_ids"]) + pair["chosen_ids"],
        }
        for pair in pairs
    ]
