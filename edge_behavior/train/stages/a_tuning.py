"""The A-Tuning stage (§3.2): supervised tuning on anchors plus some conversation."""

from __future__ import annotations

from typing import Any

from peft import get_peft_model

from edge_behavior.hf.finite import KEEP_F32, beyond_f16, check_weights
from edge_behavior.train.rows.batches import batched_rows, steps_of
from edge_behavior.train.rows.class_weights import class_weights
from edge_behavior.train.rows.epochs import a_tuning_rows
from edge_behavior.train.rows.lazy import joined
from edge_behavior.train.rows.samples import behavior_rows
from edge_behavior.train.stage_list import UNTUNED
from edge_behavior.train.stages.context import StageContext
from edge_behavior.train.stages.sft import train_sft, trains_padding_free
from edge_behavior.train.stages.tuning import Tuning
from edge_behavior.train.trainer.lora import lora_config
from edge_behavior.train.trainer.processes import console, is_main


def tune_on_anchors(context: StageContext) -> dict[str, Any]:
    """Tune the backbone's adapter, `a_tuning/adapter`; with method `none` it stays untrained."""
    recipe, stage, models = context.recipe, context.recipe.a_tuning, context.models
    folder = context.folder("a_tuning")
    if stage.method == "none":
        adapter = get_peft_model(_checked_backbone(context), lora_config(recipe.lora))
        if is_main():
            adapter.save_pretrained(str(folder / "adapter"))
        return {"method": "none"}
    epochs, counts = a_tuning_rows(context.train, models.encoder, models.tokenizer, recipe)
    held_out = behavior_rows(
        context.validation, models.encoder, stage, recipe.evaluation.validation_targets, seed=recipe.seed
    )
    per_epoch, steps = steps_of(stage, len(epochs[0]), len(epochs))
    model = _checked_backbone(context)
    by_length = not trains_padding_free(model, stage)
    rows = [batched_rows(epoch, stage, recipe.seed + i, by_length) for i, epoch in enumerate(epochs)]
    validation = batched_rows(held_out, stage, recipe.seed, by_length=True)
    tuning = Tuning(recipe, "a_tuning", per_epoch, steps, folder, context.logs("a_tuning"))
    weights = class_weights(stage, context.train)
    result = train_sft(model, models.tokenizer, joined(rows), joined([validation]), tuning, class_weights=weights)
    return {"method": stage.method, **counts, **result}


def _checked_backbone(context: StageContext) -> Any:
    """The backbone, its weights checked once in the run: finite, and whether they fit float16 for export."""
    model, name = context.models.load(UNTUNED), context.run.backbone
    beyond = check_weights(model, name)
    if beyond and context.recipe.backbone.export != "none":
        console().print(f"edgeb: {beyond_f16(name, beyond)}: {KEEP_F32}", soft_wrap=True)
    return model
