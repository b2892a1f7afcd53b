"""Runs to do: a recipe that varies a base recipe, under the name of its run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_behavior.train.recipe import Recipe, parse_recipe


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a plan; `name` is its folder's."""

    name: str
    seed: int
    recipe: Recipe


def changed(base: Recipe, changes: Mapping[str, Any], seed: int, name: str, source: str) -> Recipe:
    """The base recipe with other values of some fields (`section.field`), another seed and another name.

    Args:
        source: Named in error messages.

    Raises:
        EdgebError: an unknown field, or the changes do not fit the recipe.
    """
    fields = base.model_dump()
    fields.update(seed=seed, name=name)
    for key, value in changes.items():
        section, _, leaf = key.rpartition(".")
        held = {**fields[section], leaf: value} if section else value
        fields[section or leaf] = held
    return parse_recipe(fields, source)


def identity(recipe: Recipe) -> str:
    """A text that two recipes share exactly when they differ at most in name."""
    return recipe.model_copy(update={"name": ""}).model_dump_json()
