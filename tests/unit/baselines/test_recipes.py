"""Tuned systems are changes that fit the shipped recipes."""

from __future__ import annotations

import pytest

from edge_behavior.baselines.recipes import TUNED_SYSTEMS
from edge_behavior.train.recipe import Recipe, load_recipe, parse_recipe


def changed(base: Recipe, name: str) -> Recipe:
    fields = base.model_dump()
    for key, value in TUNED_SYSTEMS[name].changes.items():
        section, _, leaf = key.rpartition(".")
        fields[section or leaf] = {**fields[section], leaf: value} if section else value
    return parse_recipe(fields, name)


@pytest.mark.parametrize("base", ["tiny", "smollm2-135m", "llama3.1-8b"])
@pytest.mark.parametrize("name", TUNED_SYSTEMS)
def test_every_system_fits_every_kind_of_recipe(base: str, name: str) -> None:
    recipe = changed(load_recipe(base), name)
    assert recipe.method_title.split(",")[0] == recipe.method


def test_what_each_of_them_trains() -> None:
    found = {name: changed(load_recipe("smollm2-135m"), name) for name in TUNED_SYSTEMS}
    stages = {name: (r.a_tuning.method, r.a_tuning.targets, r.b_tuning.method) for name, r in found.items()}
    assert stages == {
        "untuned": ("none", "all", "none"),
        "plain": ("sft", "all", "none"),
        "plain_weighted": ("sft", "all", "none"),
        "two_stage": ("sft", "anchors", "dpo"),
        "two_stage_v1": ("sft", "anchors", "sft"),
        "gpt2": ("sft", "all", "none"),
    }
    assert [name for name, r in found.items() if r.a_tuning.class_weights != "none"] == ["plain_weighted"]
    backbones = {name: r.backbone.path for name, r in found.items()}
    assert backbones.pop("gpt2") is None
    assert len(set(backbones.values())) == 1
    assert found["gpt2"].backbone.pretrain_tokens == 0
