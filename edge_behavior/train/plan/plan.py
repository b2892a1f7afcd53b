"""`edgeb train --dry-run`: what a run would process, whether it fits, and how long it takes.

Samples are counted on the real data with the real tokenizer; `estimate` has the memory, `rates` the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import balanced_windows, eligible
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.protocols import WindowChoice, protocols
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.train.geometry import Geometry, geometry
from edge_behavior.train.plan.estimate import (
    Device,
    Estimator,
    Rows,
    Workload,
    changed,
    in_one_pass,
    other_gpu,
    precision,
    this_device,
)
from edge_behavior.train.plan.footprint import Batch, Windows
from edge_behavior.train.plan.rates import Rates
from edge_behavior.train.preflight import check_context, check_data, check_model
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.rows.batches import steps_of
from edge_behavior.train.rows.epochs import a_tuning_rows
from edge_behavior.train.rows.samples import window_prompt
from edge_behavior.train.run.inputs import located
from edge_behavior.train.stages.scoring import SHARD
from edge_behavior.train.trainer.backbone import open_backbone
from edge_behavior.train.trainer.batch_split import check_shares, micro_batch_of
from edge_behavior.train.trainer.processes import world_size

# More rows than this are counted on the first epoch only.
_COUNTED_TARGETS = 200_000
_SAMPLED_WINDOWS = 1_000


@dataclass(frozen=True)
class Counts:
    """What a run would process.

    Attributes:
        shown: Counts by name, as the command prints them.
        workload: The shapes of the passes.
        windows: Scored windows per stage.
        mean_window: The shape of one scored window of ordinary length.
    """

    shown: dict[str, Any]
    workload: Workload
    windows: dict[str, int]
    mean_window: Windows


def plan(
    recipe: Recipe, dataset: Dataset, device_memory: str | None = None, processes: int | None = None
) -> dict[str, Any]:
    """Samples, tokens and steps of each stage, its memory by part, and its time.

    A stand-in's tokenizer is trained for the count (seconds); its weights are not. No weight of a backbone is read.

    Args:
        device_memory: Plan for a GPU of so much memory ("24GiB") in place of this machine's device.
        processes: Plan for so many, with a device each (CPU processes share this machine); None: as many as were
            started.

    Returns:
        Counts; `memory` (bytes); `time` (seconds, None where the device is not here or memory does not suffice);
        `refusal` (message and hint) or None.

    Raises:
        EdgebError: as the run itself would, for bad data, a missing backbone or a batch that cannot be shared.
    """
    recipe, processes = located(recipe), processes or world_size()
    check_shares(recipe, processes)
    device = this_device() if device_memory is None else other_gpu(device_memory)
    if device.kind == "cpu" and processes > 1:
        device = replace(device, name=f"{device.name}, for each process,", available=device.available // processes)
    if recipe.backbone.quantize == "4bit" and device.kind == "cpu":
        hint = "set backbone.quantize=none, or plan for a GPU with --device-memory 24GiB"
        raise EdgebError("backbone.quantize=4bit needs a CUDA GPU", hint)
    check_model(recipe)
    check_data(recipe, dataset)
    tokenizer, config = _backbone(recipe, dataset)
    encoder = encoder_for(tokenizer, recipe.layout.layout(dataset.has_places), dataset.candidates)
    check_context(dataset, encoder, config)
    sizes = geometry(config, recipe.lora)
    found = count(recipe, dataset, encoder, tokenizer)
    estimator = Estimator(sizes, recipe.lora, found.workload, device, processes)
    refusal = estimator.refusal(recipe)
    return {
        **found.shown,
        "processes": processes,
        "parameters": sizes.parameters,
        "adapter_parameters": sizes.adapter,
        "memory": _memory(estimator, recipe, device),
        "time": seconds(recipe, found, sizes, device, processes) if device.here and refusal is None else None,
        "refusal": None if refusal is None else {"message": refusal.message, "hint": refusal.hint},
    }


def count(recipe: Recipe, dataset: Dataset, encoder: PromptEncoder, tokenizer: Any) -> Counts:
    """Count what every stage would process.

    Long A-Tunings are counted on their first epoch: the others are draws of the same size. Prompt lengths are those
    of a sample of the pool.
    """
    train, history = dataset.events("train"), encoder.layout.history_length
    a_tuning, b_tuning, choice = recipe.a_tuning, recipe.b_tuning, recipe.evaluation
    trie = encoder.trie
    shown: dict[str, Any] = {
        "recipe": recipe.name,
        "backbone": recipe.backbone.path or "stand-in",
        "pretrain_tokens": 0 if recipe.backbone.path else recipe.backbone.pretrain_tokens,
    }
    rows: dict[Any, Rows] = {}
    if a_tuning.method != "none":
        wanted = max(1, int(np.ceil(a_tuning.epochs)))
        counted = wanted if wanted * min(a_tuning.max_targets, len(train)) <= _COUNTED_TARGETS else 1
        drawn = changed(recipe, {"a_tuning.epochs": min(a_tuning.epochs, counted)})
        epochs, counts = a_tuning_rows(train, encoder, tokenizer, drawn)
        per_epoch, steps = steps_of(a_tuning, len(epochs[0]), wanted)
        lengths = np.concatenate([epoch.lengths for epoch in epochs])
        longest, labels = int(lengths.max()), int(max(epoch.labelled.max() for epoch in epochs))
        rows["a_tuning"] = Rows(longest, float(lengths.mean()), labels)
        shown |= {f"a_tuning_{key}": value for key, value in counts.items()}
        shown |= {
            "a_tuning_epochs_counted": counted,
            "a_tuning_longest_sequence": longest,
            "a_tuning_steps_per_epoch": per_epoch,
            "a_tuning_steps_at_most": steps,
        }
    targets = balanced_windows(train, b_tuning.pool_per_behavior or len(train), history)
    prompts = _prompt_lengths(train, encoder, targets, recipe.seed)
    answers = [len(encoder.label_ids(label)) for label in train.candidates.labels]
    windows = {"pool": 0, "validation": 0, "evaluation": 3 * _evaluated(dataset, history, recipe)}
    shown |= {"pool_windows": len(targets), "trie_tokens_per_window": len(trie.evaluated)}
    if b_tuning.method != "none":
        pairs = min(len(targets), b_tuning.samples_per_behavior * len(train.candidates))
        both = 2 if b_tuning.method == "dpo" else 1
        rows["b_tuning"] = Rows(
            max(prompts) + max(answers), float(np.mean(prompts) + np.mean(answers)), max(answers), both
        )
        per_epoch, steps = steps_of(b_tuning, pairs, b_tuning.epochs)
        passes = 1 + -(-steps // max(1, round(per_epoch / b_tuning.evals_per_epoch)))
        held_out = min(choice.validation_targets, 2 * len(eligible(dataset.events("validation"), history)))
        windows |= {"pool": len(targets), "validation": passes * held_out}
        shown |= {"preference_pairs_at_most": pairs, "b_tuning_steps_at_most": steps}
    shown["evaluation_windows"] = windows["evaluation"] // 3
    static = len(encoder.static_ids)
    outputs, nodes = len(trie.inner), len(trie.evaluated)
    scored = [Windows(1, static, length - static + nodes, outputs) for length in (max(prompts), int(np.mean(prompts)))]
    return Counts(shown, Workload(rows, scored[0]), windows, scored[1])


def seconds(recipe: Recipe, counts: Counts, sizes: Geometry, device: Device, processes: int = 1) -> dict[str, Any]:
    """Seconds of every stage when no stage stops early, from measured rates.

    Of several processes, the busiest one's; what they wait and send is not timed.
    """
    rates = Rates(sizes, recipe.lora, precision(recipe, sizes, device), device.kind, recipe.threads)
    window = rates.scoring(in_one_pass(recipe, counts.mean_window))

    def scoring(windows: int) -> float:
        shards = -(-windows // SHARD)
        return min(windows, -(-shards // processes) * SHARD) * window

    stages: dict[str, float] = {}
    settings = recipe.backbone
    if settings.path is None:
        share = settings.pretrain_batch_size // processes
        batch = Batch(share, settings.pretrain_block, share * settings.pretrain_block)
        steps = settings.pretrain_tokens // (settings.pretrain_batch_size * settings.pretrain_block)
        stages["backbone"] = steps * rates.pretraining(batch)
    for stage, rows in counts.workload.rows.items():
        knobs = recipe.a_tuning if stage == "a_tuning" else recipe.b_tuning
        micro = micro_batch_of(knobs, processes)
        batch = rows.batch(micro, mean=True)
        steps = int(counts.shown[f"{stage}_steps_at_most"])
        stages[stage] = (
            steps * knobs.batch_size / processes / micro * rates.training(batch, knobs.gradient_checkpointing)
        )
        if stage == "a_tuning":
            every = max(1, min(round(counts.shown["a_tuning_steps_per_epoch"] / knobs.evals_per_epoch), steps))
            held_out = recipe.evaluation.validation_targets * counts.shown["a_tuning_sequences_per_epoch"]
            # Validation takes micro-batches of the whole batch.
            together = micro_batch_of(knobs)
            batches = np.ceil(held_out / counts.shown["a_tuning_targets_per_epoch"] / together / processes)
            stages[stage] += steps // every * float(batches) * rates.validation(rows.batch(together, mean=True))
        else:
            stages[stage] += scoring(counts.windows["validation"])
    stages["scoring"] = scoring(counts.windows["pool"])
    stages["evaluation"] = scoring(counts.windows["evaluation"])
    return {
        "stages": {name: round(value, 1) for name, value in stages.items()},
        "total": round(sum(stages.values()), 1),
        "measured_on": rates.measured_on,
    }


def _backbone(recipe: Recipe, dataset: Dataset) -> tuple[Any, Any]:
    """Tokenizer and configuration, of the recipe's backbone or of its stand-in."""
    if recipe.backbone.path is not None:
        config, tokenizer = open_backbone(recipe.backbone, fetch=False)
        return tokenizer, config
    from edge_behavior.train.standin.model import architecture, standin_tokenizer

    made = standin_tokenizer(recipe, dataset.candidates, dataset.places)
    return made, architecture(recipe.backbone, made)


def _memory(estimator: Estimator, recipe: Recipe, device: Device) -> dict[str, Any]:
    needs = estimator.memory(recipe)
    return {
        "device": device.kind,
        "device_name": device.name,
        "available": device.available,
        "stages": {name: {**need.parts, "total": need.total} for name, need in needs.items()},
        "total": max(need.total for need in needs.values()),
    }


def _prompt_lengths(table: EventTable, encoder: PromptEncoder, targets: Any, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    if not len(targets):
        raise EdgebError(
            f"no training user has more than {encoder.layout.history_length} events", "import a longer log"
        )
    sample = rng.choice(targets, min(len(targets), _SAMPLED_WINDOWS), replace=False)
    formats = rng.integers(encoder.layout.formats, size=len(sample))
    return [
        len(window_prompt(table, encoder, int(target), int(wording)))
        for target, wording in zip(sample, formats, strict=True)
    ]


def _evaluated(dataset: Dataset, history: int, recipe: Recipe) -> int:
    """Test windows that each model is scored on."""
    settings = recipe.evaluation
    choice = WindowChoice(settings.per_user, settings.per_behavior, settings.limit, recipe.seed)
    return sum(len(part.targets) for part in protocols("both", dataset.events("test"), history, choice))
