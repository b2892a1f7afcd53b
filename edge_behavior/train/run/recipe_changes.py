"""Which recipe fields each stage reads, and so what a run in progress may still change.

Knows no trainer; decides by recipes alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe

STAGES_IN_ORDER = ("backbone", "a_tuning", "b_tuning", "evaluation", "report")
_REPORTED = ("evaluation.per_user", "evaluation.per_behavior", "evaluation.limit")
# What a stage does not read. Everything else counts, so that a field added later is not overlooked.
_UNREAD: dict[str, tuple[str, ...]] = {
    "backbone": ("name", "backbone.export", "lora.", "a_tuning.", "b_tuning.", "scoring.", "evaluation."),
    "a_tuning": ("name", "backbone.export", "b_tuning.", "scoring.", *_REPORTED),
    "b_tuning": ("name", "backbone.export", *_REPORTED),
    "evaluation": ("name", "backbone.export"),
    "report": (),
}
# How a stage is computed, not what: memory, kernels, logs. The result is the same up to rounding.
_COMPUTING = ("gradient_checkpointing", "micro_batch_size", "padding_free")
FREE = frozenset(
    (
        *("threads", "report_to", "backbone.attention", "backbone.export", "scoring.tokens_per_pass"),
        *(f"{s}_tuning.{name}" for s in "ab" for name in _COMPUTING),
    )
)
# Of these A-Tuning's checkpoints do not survive: padding-free rows come in another order, and validation losses are
# means over micro-batches, of which the best is looked for.
_STARTS_OVER = {"a_tuning": frozenset(("backbone.attention", "a_tuning.padding_free", "a_tuning.micro_batch_size"))}

Changes = Mapping[str, tuple[Any, Any]]


def field_values(recipe: BaseModel, prefix: str = "") -> dict[str, Any]:
    """All fields of a recipe by name, those of sections as `section.field`."""
    found: dict[str, Any] = {}
    for name in type(recipe).model_fields:
        value = getattr(recipe, name)
        found.update(
            field_values(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {prefix + name: value}
        )
    return found


def changed_fields(before: Recipe, now: Recipe) -> dict[str, tuple[Any, Any]]:
    """Old and new value of every field that differs."""
    old, new = field_values(before), field_values(now)
    return {name: (old[name], new[name]) for name in old if old[name] != new[name]}


def reads(stage: str, field: str) -> bool:
    """Whether a stage depends on a field."""
    return not any(field.startswith(part) if part.endswith(".") else field == part for part in _UNREAD[stage])


def check_changes(changes: Changes, before: Recipe, done: Sequence[str]) -> None:
    """Refuse what a finished stage has read already.

    Raises:
        EdgebError: naming the first such field, and the stage.
    """
    for field, (old, new) in changes.items():
        reader = next((stage for stage in done if field not in FREE and _has_read(stage, field, before)), None)
        if reader is not None:
            raise EdgebError(
                f"{field} was {old!r} when {reader} ran, which is finished, and cannot become {new!r}",
                "leave it as it was, or start a new run",
            )


def starts_over(stage: str, changes: Changes) -> bool:
    """Whether what a stage in progress has done so far belongs to other settings."""
    return any(field in _STARTS_OVER.get(stage, ()) if field in FREE else reads(stage, field) for field in changes)


def _has_read(stage: str, field: str, recipe: Recipe) -> bool:
    # With a backbone that is given, there is nothing to build.
    if stage == "backbone" and recipe.backbone.path is not None:
        return field == "backbone.path"
    return reads(stage, field)
