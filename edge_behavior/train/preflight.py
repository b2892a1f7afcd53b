"""Preflight checks: refuses, before anything is written, a run that is bound to fail."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Qwen2Config

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.data.dataset import SPLITS, Dataset, EventTable
from edge_behavior.data.windows import eligible, positions
from edge_behavior.errors import EdgebError
from edge_behavior.hf.find import find_backbone
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.train.geometry import empty_model, with_adapter
from edge_behavior.train.recipe import BackboneConfig, Recipe
from edge_behavior.train.rows.conversations import read_conversations
from edge_behavior.train.rows.samples import target_mask, window_prompt
from edge_behavior.train.standin.model import sizes
from edge_behavior.train.trainer.backbone import attention, check_four_bits, open_backbone, read_config
from edge_behavior.train.trainer.batch_split import check_shares
from edge_behavior.train.trainer.processes import shards_weights, world_size
from edge_behavior.util.cpus import chosen_threads

_EVERY_LINEAR = "all-linear"
_SAMPLED_WINDOWS = 200


def check_inputs(recipe: Recipe, dataset: Dataset, done: Collection[str] = ()) -> None:
    """All preflight checks of the stages that are not `done`.

    Raises:
        EdgebError: a backbone or conversation file that cannot be read, a batch that the processes cannot share, a
            missing package, more threads than this process may use; and see `check_model` and `check_data`.
    """
    chosen_threads(recipe.threads, 1)
    check_shares(recipe, world_size())
    if recipe.backbone.path is None:
        if "backbone" not in done and shards_weights():
            raise EdgebError("a stand-in cannot be trained with FSDP", "set backbone.path, or launch without FSDP")
    else:
        config, tokenizer = open_backbone(recipe.backbone)
        layout = recipe.layout.layout(dataset.has_places, tokenizer)
        encoder = encoder_for(tokenizer, layout, dataset.candidates)
        check_context(dataset, encoder, config)
    attention(recipe.backbone)
    if recipe.backbone.quantize == "4bit":
        check_four_bits()
    if "a_tuning" not in done:
        check_model(recipe)
        if recipe.a_tuning.aux_path is not None and recipe.a_tuning.aux_ratio:
            read_conversations(Path(recipe.a_tuning.aux_path))
    check_data(recipe, dataset, done)


def check_model(recipe: Recipe) -> None:
    """Check that the stand-in's shape is possible and that the adapter finds its modules; no weights are needed.

    Raises:
        EdgebError: naming the field.
    """
    settings, wanted = recipe.backbone, recipe.lora.target_modules
    if settings.path is None:
        _check_heads(settings)
    if wanted == _EVERY_LINEAR:
        return
    # Module names do not depend on the stand-in's tokenizer.
    config: Any = (
        Qwen2Config(**sizes(settings))
        if settings.path is None
        else read_config(find_backbone(settings.path, settings.revision, weights=False))
    )
    model = empty_model(config, int(config.num_hidden_layers), config.dtype)
    ends = {name for name, part in model.named_modules() if part in _ends(model)}
    hint = f"{_EVERY_LINEAR}, or a regular expression for whole module names, like '.*(q_proj|v_proj)'"
    try:
        reached = set(with_adapter(model, recipe.lora).base_model.targeted_module_names) & ends
    except (ValueError, re.error) as error:
        raise EdgebError(f"lora.target_modules = {wanted!r}: {str(error).splitlines()[0]}", hint) from None
    if reached:
        raise EdgebError(
            f"lora.target_modules = {wanted!r} matches '{min(reached)}': adapters go on the linear layers between "
            "embedding and output",
            hint,
        )


def _ends(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def check_context(dataset: Dataset, encoder: PromptEncoder, config: Any) -> None:
    """Check that prompts fit the backbone's context, on a sample of test windows with the longest label.

    Raises:
        EdgebError: a prompt does not fit.
    """
    table, length = dataset.events("test"), encoder.layout.history_length
    windows = eligible(table, length)
    if not len(windows):
        return
    sample = windows[np.linspace(0, len(windows) - 1, min(len(windows), _SAMPLED_WINDOWS)).astype(int)]
    longest = max(len(encoder.label_ids(label)) for label in encoder.candidates.labels)
    needed = max(len(window_prompt(table, encoder, int(target))) for target in sample) + longest
    if needed > int(config.max_position_embeddings):
        raise EdgebError(
            f"with layout.history_length {length}, a prompt and its label have {needed} tokens, the backbone has "
            f"{config.max_position_embeddings} positions (max_position_embeddings)",
            "lower layout.history_length, set layout.list_candidates=false, or use another backbone",
        )


def check_data(recipe: Recipe, dataset: Dataset, done: Collection[str] = ()) -> None:
    """Check that every stage that is not `done` has data to train on or to be evaluated on.

    Raises:
        EdgebError: naming the field that leaves no data, or that asks for places where there are none.
    """
    recipe.layout.names_places(dataset.has_places)
    tables = {split: dataset.events(split) for split in SPLITS}
    if "a_tuning" not in done and recipe.a_tuning.method != "none":
        for split in ("train", "validation"):
            _check_targets(recipe, tables[split], split)
    length = recipe.layout.history_length
    if "b_tuning" not in done and recipe.b_tuning.method != "none":
        for split in ("train", "validation"):
            _check_windows(tables[split], split, length)
        _check_pairs(recipe, tables["train"])
    if "evaluation" not in done:
        _check_windows(tables["test"], "test", length)


def preference_pairs(recipe: Recipe, train: EventTable) -> int:
    """Number of preference pairs that B-Tuning will have: F of every behavior, or as many as the pool has."""
    settings = recipe.b_tuning
    windows = eligible(train, recipe.layout.history_length)
    counts = np.bincount(train.behavior[windows], minlength=len(train.candidates))
    most = min(settings.samples_per_behavior, settings.pool_per_behavior or settings.samples_per_behavior)
    return int(np.minimum(counts, most).sum())


def _check_pairs(recipe: Recipe, train: EventTable) -> None:
    pairs, size = preference_pairs(recipe, train), recipe.b_tuning.batch_size
    if pairs < size:
        raise EdgebError(
            f"only {pairs} preference pairs for b_tuning.batch_size {size}",
            "lower the batch size, or raise b_tuning.samples_per_behavior and pool_per_behavior",
        )


def _check_windows(table: EventTable, split: str, length: int) -> None:
    if not len(eligible(table, length)):
        most = int(np.diff(table.user_offsets).max(initial=0))
        raise EdgebError(
            f"layout.history_length is {length}, but the longest log of a {split} user has {most} events",
            "lower it, or import longer logs",
        )


def _check_targets(recipe: Recipe, table: EventTable, split: str) -> None:
    settings, layout = recipe.a_tuning, recipe.layout
    mask = target_mask(settings, table)
    if layout.name == "stream":
        # The first event of a stretch carries no loss, and a stretch has a minimum length.
        firsts = np.maximum(table.user_offsets[:-1] + 1, table.target_starts)
        ends = table.user_offsets[1:]
        windows = positions(firsts, np.where(ends - firsts + 1 >= settings.stretch_min, ends, firsts))
    else:
        _check_windows(table, split, layout.history_length)
        windows = eligible(table, layout.history_length)
    if not mask[table.behavior[windows]].any():
        raise EdgebError(
            f"a_tuning.targets is {settings.targets}, and no {split} user shows such a behavior after other events",
            "import more events, or widen a_tuning.targets",
        )


def _check_heads(settings: BackboneConfig) -> None:
    if settings.heads % settings.kv_heads:
        raise EdgebError(
            f"backbone.heads {settings.heads} is not a multiple of backbone.kv_heads {settings.kv_heads}",
            "every key/value head serves the same number of attention heads",
        )
    width = settings.hidden_size // settings.heads
    if width % 2 or not width:
        raise EdgebError(
            f"backbone.hidden_size {settings.hidden_size} gives each of {settings.heads} heads a width of {width}",
            "rotary positions need an even width: change backbone.hidden_size or backbone.heads",
        )
