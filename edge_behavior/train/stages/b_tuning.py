"""The B-Tuning stage (§3.3): balanced tuning on difficult samples."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from edge_behavior.train.rows.batches import batched, batched_rows, steps_of
from edge_behavior.train.rows.lazy import RowList, joined
from edge_behavior.train.stages.context import StageContext
from edge_behavior.train.stages.dpo import train_dpo
from edge_behavior.train.stages.keep_best import KeepBest
from edge_behavior.train.stages.pool import choose_pairs, chosen_rows, score_pool, tokenized, write_pairs
from edge_behavior.train.stages.sft import train_sft
from edge_behavior.train.stages.tuning import Tuning
from edge_behavior.train.trainer.processes import console, is_main


def tune_on_difficult(context: StageContext) -> dict[str, Any]:
    """Score the pool, pair truths with mistakes, and go on tuning; the best adapter goes to `b_tuning/adapter`."""
    recipe, stage, models = context.recipe, context.recipe.b_tuning, context.models
    folder = context.folder("b_tuning")
    model = models.load("a_tuning", trainable=True)
    if stage.method == "none":
        if is_main():
            model.save_pretrained(folder / "adapter")
        return {"method": "none"}
    pool = score_pool(model, models.encoder, context.train, recipe, folder / "pool")
    pairs, summary = choose_pairs(pool, context.train, recipe)
    if summary.without_sample:
        console().print(f"no training window shows {', '.join(summary.without_sample)}: B-Tuning cannot balance them")
    if is_main():
        write_pairs(context.run.path / "pairs.jsonl", pairs, context.train, models.encoder)
    examples = tokenized(pairs, context.train, models.encoder)
    per_epoch, steps = steps_of(stage, len(examples), stage.epochs)
    every = max(1, round(per_epoch / stage.evals_per_epoch))
    keep = KeepBest(model, models.encoder, context.validation, recipe, folder / "best", every)
    seeds = range(recipe.seed, recipe.seed + max(1, int(np.ceil(stage.epochs))))
    tuning = Tuning(recipe, "b_tuning", per_epoch, steps, folder, context.logs("b_tuning"))
    if stage.method == "dpo":
        lengths = [len(pair["prompt_ids"]) for pair in examples]
        ordered = [pair for seed in seeds for pair in batched(examples, lengths, stage.batch_size, seed, False)]
        result = train_dpo(model, models.tokenizer, ordered, tuning, [keep])
    else:
        answers = RowList(chosen_rows(examples))
        epochs = joined([batched_rows(answers, stage, seed, by_length=False) for seed in seeds])
        result = train_sft(model, models.tokenizer, epochs, None, tuning, [keep])
    keep.recall(result["steps"])
    keep.keep(folder / "adapter")
    kept = {"method": stage.method, "best_step": keep.best_step, "validation": [asdict(m) for m in keep.history]}
    return {**asdict(summary), **result, **kept}
