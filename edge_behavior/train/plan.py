"""`edgeb train --dry-run`: what a run would process, counted on the real data with the real tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_behavior.data.dataset import Dataset
from edge_behavior.data.windows import balanced_windows
from edge_behavior.hf_tokens import encoder_for
from edge_behavior.recipes import Recipe
from edge_behavior.train.backbone import load_tokenizer
from edge_behavior.train.pipeline import a_tuning_rows, steps_of


def plan(recipe: Recipe, data: Path) -> dict[str, Any]:
    """Samples, tokens and steps of each stage.

    A stand-in's tokenizer is trained for the count (seconds); its weights are not.

    Raises:
        EdgebError: as the run itself would, for bad data or a missing backbone.
    """
    dataset = Dataset.open(data)
    train = dataset.events("train")
    layout = recipe.layout.layout()
    if recipe.backbone.path is None:
        from edge_behavior.train.standin import standin_tokenizer

        tokenizer = standin_tokenizer(recipe, dataset.candidates, train.places)
    else:
        tokenizer = load_tokenizer(recipe.backbone.path, recipe.backbone.revision)
    encoder = encoder_for(tokenizer, layout, dataset.candidates)
    epochs, counts = a_tuning_rows(train, encoder, tokenizer, recipe)
    per_epoch, steps = steps_of(recipe.a_tuning, len(epochs[0]), len(epochs))
    longest = max(len(row["input_ids"]) for rows in epochs for row in rows)
    pool = len(balanced_windows(train, recipe.b_tuning.pool_per_behavior or len(train), layout.history_length))
    pairs = min(pool, recipe.b_tuning.samples_per_behavior * len(dataset.candidates))
    b_steps = steps_of(recipe.b_tuning, pairs, recipe.b_tuning.epochs)[1]
    return {
        "recipe": recipe.name,
        "backbone": recipe.backbone.path or "stand-in",
        "pretrain_tokens": 0 if recipe.backbone.path else recipe.backbone.pretrain_tokens,
        **{f"a_tuning_{key}": value for key, value in counts.items()},
        "a_tuning_longest_sequence": longest,
        "a_tuning_steps_per_epoch": per_epoch,
        "a_tuning_steps_at_most": steps,
        "pool_windows": pool,
        "trie_tokens_per_window": len(encoder.trie.evaluated),
        "preference_pairs_at_most": pairs,
        "b_tuning_steps_at_most": b_steps,
    }
