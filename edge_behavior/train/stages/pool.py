"""The data of B-Tuning: score the pool, select difficult samples, pair truths with mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import balanced_windows
from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.rows.lazy import IGNORED, Row
from edge_behavior.train.rows.samples import window_prompt
from edge_behavior.train.run.folder import write_text
from edge_behavior.train.stages.b_tuning import PairRow
from edge_behavior.train.stages.scoring import draw_formats, score_windows
from edge_behavior.train.stages.select import Pair, Pool, build_pairs, confusion, difficulty, per_behavior, select


def score_pool(model: Any, encoder: PromptEncoder, table: EventTable, recipe: Recipe, shards: Path) -> Pool:
    """Score up to `pool_per_behavior` training windows of every behavior with the A-tuned model (step 2.1).

    One pass gives all that B-Tuning needs: p(y|x), ŷ, the runner-up, E(x) and DPO's reference log-probabilities.
    What is scored is kept in `shards`, from where an interrupted pass goes on.
    """
    cap = recipe.b_tuning.pool_per_behavior
    length = encoder.layout.history_length
    targets = balanced_windows(table, cap or len(table), length, seed=recipe.seed)
    if not len(targets):
        raise EdgebError(f"no training user has more than {length} events", "import a longer log")
    formats = draw_formats(encoder, len(targets), recipe.seed)
    tokens = recipe.scoring.tokens_per_pass
    scores = score_windows(
        model, encoder, table, targets, formats, "score the pool", shards, embeddings=True, tokens_per_pass=tokens
    )
    return Pool(targets, table.behavior[targets].astype(np.int64), formats, scores.log_probs, scores.embeddings)


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


def preference_rows(pairs: list[Pair], table: EventTable, encoder: PromptEncoder) -> list[PairRow]:
    """Token ids and reference log-probabilities of the pairs, each in the wording that the pool pass scored."""
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


def chosen_rows(rows: list[PairRow]) -> list[Row]:
    """The chosen answers alone as SFT rows (v1 of the paper; ablation "w/o DPO")."""
    return [
        {
            "input_ids": row["prompt_ids"] + row["chosen_ids"],
            "labels": [IGNORED] * len(row["prompt_ids"]) + row["chosen_ids"],
        }
        for row in rows
    ]
