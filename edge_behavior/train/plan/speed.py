"""How long a run takes: one short step of real layers is timed here, the rest is scaled by FLOPs.

The step has the run's micro-batch; on a CPU as many of its tokens as take about a second. Not in it: data loading, the
optimizer, logging, the unpacking of 4-bit weights, and what processes wait for each other.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

import torch

from edge_behavior.train.geometry import Geometry, build_model, with_adapter
from edge_behavior.train.plan.counts import Batch, Counts, Window
from edge_behavior.train.plan.memory import Precision
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.stages.scoring import SHARD
from edge_behavior.train.trainer.batch_split import micro_batch_of
from edge_behavior.util.cpus import chosen_threads

_LAYERS, _VOCABULARY, _REPEATS = 2, 4096, 3
# On a CPU: FLOPs of the step, and its fewest tokens.
_WORK, _FEWEST_TOKENS = 2e10, 32


@dataclass(frozen=True)
class Times:
    """Seconds of every stage when none stops early.

    Attributes:
        stages: By stage.
        window: Seconds to score one window of mean length with all trie nodes, as a comparison does.
        speed: FLOPs per second, from which they follow.
        measured_on: What was timed.
    """

    stages: dict[str, float]
    window: float
    speed: float
    measured_on: str

    @property
    def total(self) -> float:
        """Of the whole run."""
        return round(sum(self.stages.values()), 1)


def times(
    recipe: Recipe,
    counts: Counts,
    sizes: Geometry,
    how: Precision,
    device: str,
    processes: int = 1,
    measured: tuple[float, str] | None = None,
) -> Times:
    """Time a run on this machine's `cpu` or `cuda`; of several processes, the busiest one.

    Args:
        measured: What `flops_per_second` gave for a run with the same backbone, to measure nothing again.
    """
    window, shown = counts.mean_window, counts.shown
    micro = {stage: micro_batch_of(getattr(recipe, stage), processes) for stage in counts.samples}
    step = next((counts.samples[stage].batch(size, mean=True) for stage, size in micro.items()), None)
    speed, measured_on = measured or flops_per_second(sizes, recipe, step or Batch(1, window.own, 0), how, device)

    def scored(one: Window) -> float:
        return forward_flops(sizes, one.own, one.static + one.own, one.outputs)

    def scoring(windows: int) -> float:
        return min(windows, math.ceil(windows / SHARD / processes) * SHARD) * scored(window)

    flops: dict[str, float] = {}
    backbone = recipe.backbone
    if backbone.path is None:
        block = backbone.pretrain_block
        steps = backbone.pretrain_tokens // (block * backbone.pretrain_batch_size)
        blocks = steps * backbone.pretrain_batch_size / processes
        # Forward, gradients of inputs, gradients of weights.
        flops["backbone"] = 3 * blocks * forward_flops(sizes, block, block, block)
    for stage, samples in counts.samples.items():
        settings, steps = getattr(recipe, stage), shown[f"{stage}_steps_at_most"]
        sample = samples.batch(1, mean=True)
        forward = forward_flops(sizes, sample.tokens, sample.length, sample.labels) / processes
        # Frozen weights need gradients of their inputs only; checkpointing repeats the forward pass.
        flops[stage] = steps * settings.batch_size * (3 if settings.gradient_checkpointing else 2) * forward
        if stage == "a_tuning":
            every = max(1, min(round(shown["a_tuning_steps_per_epoch"] / settings.evals_per_epoch), steps))
            rows_per_target = shown["a_tuning_sequences_per_epoch"] / shown["a_tuning_targets_per_epoch"]
            flops[stage] += steps // every * recipe.evaluation.validation_targets * rows_per_target * forward
        else:
            flops[stage] += scoring(counts.windows["validation"])
    flops |= {"scoring": scoring(counts.windows["pool"]), "evaluation": scoring(counts.windows["evaluation"])}
    nodes = int(shown["trie_tokens_per_window"])
    whole = replace(window, own=window.own - window.outputs + 1 + nodes, outputs=1 + nodes)
    seconds = {stage: round(work / speed, 1) for stage, work in flops.items()}
    return Times(seconds, scored(whole) / speed, speed, measured_on)


def forward_flops(sizes: Geometry, tokens: int, length: int, outputs: int) -> float:
    """FLOPs of a forward pass over `tokens` that attend to `length` each, with logits of `outputs` of them."""
    hidden = int(sizes.config.hidden_size)
    attention = 2 * int(sizes.config.num_hidden_layers) * hidden * length
    return 2.0 * (tokens * (sizes.packable + attention) + outputs * hidden * int(sizes.config.vocab_size))


def flops_per_second(sizes: Geometry, recipe: Recipe, batch: Batch, how: Precision, device: str) -> tuple[float, str]:
    """Time a forward and backward pass of one or two layers with random weights, and say what was measured."""
    layers, config = int(sizes.config.num_hidden_layers), copy.deepcopy(sizes.config)
    few = config.num_hidden_layers = min(_LAYERS, layers)
    config.vocab_size, config.pad_token_id = min(config.vocab_size, _VOCABULARY), None
    short = Geometry(config, sizes.linears[: len(sizes.linears) * few // layers], 0, 0)
    if device == "cpu":
        per_token = 2 * forward_flops(short, 1, batch.length, 1)
        tokens = max(_FEWEST_TOKENS, min(batch.tokens, int(_WORK / per_token)))
        length = min(batch.length, tokens)
        batch = replace(batch, sequences=max(1, tokens // length), length=length)
    before = torch.get_num_threads()
    threads = chosen_threads(recipe.threads, before)
    torch.set_num_threads(threads)
    try:
        with torch.device(device):
            model = with_adapter(build_model(config, few, how.weights), recipe.lora)
            ids = torch.zeros((batch.sequences, batch.length), dtype=torch.long)
        seconds = []
        for _ in range(1 + _REPEATS):
            started = perf_counter()
            with torch.autocast(device, torch.bfloat16, enabled=how.autocast):
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    work = 2 * forward_flops(short, batch.tokens, batch.length, batch.tokens)
    where = f"CPU, {threads} thread{'s' * (threads > 1)}" if device == "cpu" else torch.cuda.get_device_name()
    depth = "1 layer" if layers == 1 else f"{few} of {layers} layers"
    return work / median(seconds[1:]), f"{where}, {depth}"
