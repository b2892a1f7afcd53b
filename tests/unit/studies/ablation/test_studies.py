"""Studies change what they name and nothing else, and equal recipes come to one run."""

from __future__ import annotations

from typing import Any

import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.studies.ablation.studies import (
    FULL,
    Variant,
    all_studies,
    auxiliary_files,
    chosen,
    make_plan,
    varied,
)
from edge_behavior.train.recipe import Recipe, load_recipe

BASE = load_recipe("tiny", ["method=two-stage"])
AUX = {"talk": "talk.jsonl", "maths": "maths.jsonl"}
STUDIES = all_studies(AUX)


def flat(recipe: Recipe) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in recipe.model_dump().items():
        found |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return found


def changed(variant: Variant, seed: int = BASE.seed) -> dict[str, Any]:
    before, after = flat(BASE), flat(varied(BASE, variant, seed))
    return {key: value for key, value in after.items() if before[key] != value and key != "name"}


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("without_aux", {"a_tuning.aux_ratio": 0.0}),
        ("without_dds", {"b_tuning.selection": "uniform"}),
        ("without_kmeans", {"b_tuning.selection": "difficulty"}),
        ("without_dpo", {"b_tuning.method": "sft"}),
        ("without_a_tuning", {"a_tuning.method": "none"}),
        ("targets_anchors", {}),
        ("targets_all", {"a_tuning.targets": "all"}),
        ("targets_tail_first", {"a_tuning.targets": "medium_and_tail"}),
        ("aux_ratio_0.025", {"a_tuning.aux_ratio": 0.025}),
        ("aux_ratio_0.05", {}),
        ("anchor_threshold_0.02", {"a_tuning.anchor_threshold": 0.02}),
        ("samples_per_behavior_40", {"b_tuning.samples_per_behavior": 40}),
        ("difficulty_weight_0", {"b_tuning.difficulty_weight": 0.0}),
        ("confusion_as-printed", {"b_tuning.confusion": "as-printed"}),
        ("method_none", {"b_tuning.method": "none"}),
        ("layout_prefix", {"layout.name": "prefix"}),
        ("layout_instruct", {"layout.name": "instruct", "layout.list_candidates": True}),
        ("aux_maths", {"a_tuning.aux_path": "maths.jsonl"}),
    ],
)
def test_a_variant_differs_from_the_recipe_in_this_alone(name: str, difference: dict[str, Any]) -> None:
    variants = {variant.name: variant for study in STUDIES for variant in study.variants}
    assert changed(variants[name]) == difference
    assert changed(variants[name], seed=7) == {**difference, "seed": 7}


def test_every_variant_is_a_valid_recipe_with_a_name_of_its_own() -> None:
    names = [variant.name for study in STUDIES for variant in study.variants]
    assert len(set(names)) == len(names)
    for study in STUDIES:
        for variant in study.variants:
            assert varied(BASE, variant, 3).name == f"tiny-{variant.name}"


def test_equal_recipes_share_a_run() -> None:
    plan = make_plan(BASE, STUDIES, chosen(STUDIES, ["method", "components", "confusion"]), [0, 1])
    assert plan.run_of["confusion_intended", 0] == plan.run_of[FULL, 0] == "full-seed0"
    # Named by the first study that needs it, asked for or not.
    assert plan.run_of["method_sft", 1] == plan.run_of["without_dpo", 1] == "without_dpo-seed1"
    assert make_plan(BASE, STUDIES, chosen(STUDIES, ["method"]), [1]).run_of["method_sft", 1] == "without_dpo-seed1"
    # full, five components, as-printed, none; twice.
    assert len(plan.runs) == 2 * 8
    assert len({run.name for run in plan.runs}) == len(plan.runs)
    assert [run.seed for run in plan.runs] == [0] * 8 + [1] * 8


def test_a_runs_recipe_does_not_depend_on_what_else_was_asked_for() -> None:
    def recipes(*names: str) -> dict[str, Recipe]:
        return {run.name: run.recipe for run in make_plan(BASE, STUDIES, chosen(STUDIES, names), [0]).runs}

    alone, together = recipes("method"), recipes()
    assert alone.items() <= together.items()
    for name, recipe in together.items():
        assert recipe.seed == 0
        assert name == f"{recipe.name.removeprefix('tiny-') if recipe.name != 'tiny' else FULL}-seed0"


def test_unknown_studies_are_refused_with_a_hint() -> None:
    with pytest.raises(EdgebError, match="did you mean 'components'"):
        chosen(STUDIES, ["component"])
    with pytest.raises(EdgebError, match="--aux"):
        chosen(all_studies(), ["aux_data"])
    assert [s.name for s in all_studies()] == [s.name for s in STUDIES if s.name != "aux_data"]


def test_auxiliary_files_are_named() -> None:
    assert auxiliary_files(["a/talk.jsonl.gz", "maths=b/qa.jsonl"]) == {
        "talk": "a/talk.jsonl.gz",
        "maths": "b/qa.jsonl",
    }
    with pytest.raises(EdgebError, match="taken"):
        auxiliary_files(["a/qa.jsonl", "b/qa.jsonl"])
    with pytest.raises(EdgebError, match="NAME=FILE"):
        auxiliary_files(["=x"])
