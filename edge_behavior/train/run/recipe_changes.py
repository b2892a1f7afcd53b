"""Which recipe fields a run in progress may still change: those that no finished stage has read.

Knows no trainer; decides by recipes alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.stage_list import BACKBONE_FIELD, FREE, stage_named

# Old and new value by field.
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


def check_changes(changes: Changes, before: Recipe, done: Sequence[str]) -> None:
    """Refuse to change what a finished stage has read.

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


def _has_read(stage: str, field: str, recipe: Recipe) -> bool:
    # Where the recipe names a backbone, none is built.
    if stage == "backbone" and recipe.backbone.path is not None:
        return field == BACKBONE_FIELD
    return stage_named(stage).reads(field)
