"""What a run would process, counted on the real data with the real tokenizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import eligible
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.protocols import WindowChoice, protocols
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.rows.batches import steps_of
from edge_behavior.train.rows.epochs import a_tuning_rows
from edge_behavior.train.rows.samples import pool_windows, window_prompt

# Above this, A-Tuning is counted on its first epoch only: the others are draws of the same size.
_COUNTED_TARGETS = 200_000
_SAMPLED_WINDOWS = 1_000
# Trie nodes that a bound takes: 76 of 721 within 0.1 nats, on a tuned model (benchmarks/results/bounded-scoring.md).
_SEARCHED_NODES = 80


@dataclass(frozen=True)
class Batch:
    """One micro-batch: its sequences, their padded length, and all positions with a label."""

    sequences: int
    length: int
    labels: int

    @property
    def tokens(self) -> int:
        """Positions, padding included."""
        return self.sequences * self.length


@dataclass(frozen=True)
class Samples:
    """What a stage trains on: tokens of the longest and the mean sequence, most labels in one, sequences per sample."""

    longest: int
    mean: float
    labels: int
    sequences: int = 1

    def batch(self, samples: int, mean: bool = False) -> Batch:
        """The micro-batch of the longest samples, or of mean ones."""
        length, count = math.ceil(self.mean) if mean else self.longest, samples * self.sequences
        return Batch(count, length, count * min(self.labels, length))


@dataclass(frozen=True)
class Window:
    """A scored window: tokens of the shared prefix, its own (label trie included), and positions with logits."""

    static: int
    own: int
    outputs: int


@dataclass(frozen=True)
class Counts:
    """What a run would process.

    Attributes:
        shown: By name, as the command prints them; none of a stage that trains nothing.
        samples: Of every stage that trains.
        windows: Scored windows of the pool, of B-Tuning's validation, and of evaluation (three models).
        longest_window: The longest scored window.
        mean_window: One of mean length, with as many trie nodes as the recipe's bound takes.
    """

    shown: dict[str, Any]
    samples: dict[str, Samples]
    windows: dict[str, int]
    longest_window: Window
    mean_window: Window


def count(recipe: Recipe, dataset: Dataset, encoder: PromptEncoder, tokenizer: Any, packs: bool = False) -> Counts:
    """Count what every stage would process. Prompt lengths are those of a sample of the pool.

    Args:
        packs: Both answers of a preference pair share one prompt, see `trainer.packed`.
    """
    train, history, stage = dataset.events("train"), encoder.layout.history_length, recipe.b_tuning
    shown: dict[str, Any] = {
        "recipe": recipe.name,
        "method": recipe.method_title,
        "backbone": recipe.backbone.path or "stand-in",
        "pretrain_tokens": 0 if recipe.backbone.path else recipe.backbone.pretrain_tokens,
    }
    samples: dict[str, Samples] = {}
    if recipe.a_tuning.method != "none":
        counts, samples["a_tuning"] = _a_tuning(recipe, train, encoder, tokenizer)
        shown |= {f"a_tuning_{key}": value for key, value in counts.items()}
    pool = pool_windows(train, encoder, recipe)
    prompts = _prompt_lengths(train, encoder, pool, recipe.seed)
    choice = WindowChoice(
        recipe.evaluation.per_user, recipe.evaluation.per_behavior, recipe.evaluation.limit, recipe.seed
    )
    tested = sum(len(part.targets) for part in protocols("both", dataset.events("test"), history, choice))
    windows = {"pool": 0, "validation": 0, "evaluation": 3 * tested}
    nodes = len(encoder.trie.evaluated)
    shown |= {"pool_windows": len(pool), "trie_tokens_per_window": nodes}
    if stage.method != "none":
        answers = [len(encoder.label_ids(label)) for label in train.candidates.labels]
        both = 2 if stage.method == "dpo" else 1
        together = both if packs else 1
        most, mean = max(prompts) + together * max(answers), float(np.mean(prompts) + together * np.mean(answers))
        samples["b_tuning"] = Samples(most, mean, together * max(answers), both // together)
        pairs = min(len(pool), stage.samples_per_behavior * len(train.candidates))
        per_epoch, steps = steps_of(stage, pairs, stage.epochs)
        passes = 1 + -(-steps // max(1, round(per_epoch / stage.evals_per_epoch)))
        held_out = min(recipe.evaluation.validation_targets, 2 * len(eligible(dataset.events("validation"), history)))
        windows |= {"pool": len(pool), "validation": passes * held_out}
        shown |= {"preference_pairs_at_most": pairs, "b_tuning_steps_at_most": steps}
    shown["evaluation_windows"] = tested
    static = len(encoder.static_ids)
    searched = nodes if recipe.scoring.bound is None else min(nodes, _SEARCHED_NODES)
    # A search may come to need all nodes.
    longest = Window(static, max(prompts) - static + nodes, nodes + 1)
    mean_window = Window(static, int(np.mean(prompts)) - static + searched, searched + 1)
    return Counts(shown, samples, windows, longest, mean_window)


def _a_tuning(
    recipe: Recipe, train: EventTable, encoder: PromptEncoder, tokenizer: Any
) -> tuple[dict[str, float], Samples]:
    stage = recipe.a_tuning
    wanted = max(1, math.ceil(stage.epochs))
    counted = wanted if wanted * min(stage.max_targets, len(train)) <= _COUNTED_TARGETS else 1
    drawn = stage.model_copy(update={"epochs": min(stage.epochs, counted)})
    epochs, counts = a_tuning_rows(train, encoder, tokenizer, recipe.model_copy(update={"a_tuning": drawn}))
    lengths = np.concatenate([epoch.lengths for epoch in epochs])
    per_epoch, steps = steps_of(stage, len(epochs[0]), wanted)
    found = Samples(int(lengths.max()), float(lengths.mean()), int(max(epoch.labelled.max() for epoch in epochs)))
    counts |= {"epochs_counted": counted, "longest_sequence": found.longest}
    return {**counts, "steps_per_epoch": per_epoch, "steps_at_most": steps}, found


def _prompt_lengths(table: EventTable, encoder: PromptEncoder, targets: Any, seed: int) -> list[int]:
    if not len(targets):
        length = encoder.layout.history_length
        raise EdgebError(f"no training user has more than {length} events", "import a longer log")
    rng = np.random.default_rng(seed)
    sample = rng.choice(targets, min(len(targets), _SAMPLED_WINDOWS), replace=False)
    formats = rng.integers(encoder.layout.formats, size=len(sample))
    pairs = zip(sample, formats, strict=True)
    return [len(window_prompt(table, encoder, int(target), int(wording))) for target, wording in pairs]
