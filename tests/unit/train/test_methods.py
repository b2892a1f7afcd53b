"""A method is a name for recipe fields: the file and flags override it, and a departure from it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edge_behavior.errors import EdgebError
from edge_behavior.train.methods import DEFAULT_METHOD, METHODS
from edge_behavior.train.recipe import Recipe, load_recipe, parse_recipe, recipe_names
from edge_behavior.train.run.folder import saved_recipe
from edge_behavior.train.run.recipe_changes import changed_fields, field_values

CONFIGS = Path(__file__).resolve().parents[3] / "train" / "configs"
FIELDS = {key for method in METHODS.values() for key in method.fields}


def mine(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return str(folder / "mine.yaml")


def method_values(recipe: Recipe) -> dict[str, object]:
    values = field_values(recipe)
    return {key: values[key] for key in FIELDS}


def test_every_method_sets_the_same_fields_to_other_values() -> None:
    assert DEFAULT_METHOD in METHODS
    assert all(set(method.fields) == FIELDS for method in METHODS.values())
    assert len({tuple(sorted(method.fields.items())) for method in METHODS.values()}) == len(METHODS)


def test_the_papers_method_is_what_the_fields_are_by_themselves() -> None:
    """Runs and recipes of before methods had names are of this one."""
    assert method_values(Recipe()) == METHODS["two-stage"].fields
    assert Recipe().method_title == "two-stage"


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_takes_its_methods_fields(name: str, tmp_path: Path) -> None:
    for recipe in (load_recipe("tiny", [f"method={name}"]), load_recipe(mine(tmp_path, f"method: {name}\n"))):
        assert method_values(recipe) == METHODS[name].fields
        assert (recipe.method, recipe.method_title) == (name, name)


def test_only_the_method_differs() -> None:
    plain, staged = (load_recipe("tiny", [f"method={name}"]) for name in ("plain", "two-stage"))
    assert set(changed_fields(plain, staged)) == {"method", "a_tuning.targets", "a_tuning.aux_ratio", "b_tuning.method"}


def test_flag_over_file_over_method(tmp_path: Path) -> None:
    file = mine(tmp_path, "method: plain\na_tuning:\n  targets: tail\n  aux_ratio: 0.2\n")
    recipe = load_recipe(file, ["a_tuning.aux_ratio=0.1"])
    assert (recipe.a_tuning.targets, recipe.a_tuning.aux_ratio, recipe.b_tuning.method) == ("tail", 0.1, "none")
    assert recipe.method_title == "plain, but a_tuning.targets=tail, a_tuning.aux_ratio=0.1"
    # A method that a flag names is a flag: what the file says of its fields gives way, wherever it stands.
    for words in (["b_tuning.method=sft", "method=two-stage"], ["method=two-stage", "b_tuning.method=sft"]):
        recipe = load_recipe(file, words)
        assert recipe.method_title == "two-stage, but b_tuning.method=sft"


def test_a_section_set_as_a_whole_still_has_the_method(tmp_path: Path) -> None:
    recipe = load_recipe(mine(tmp_path, "method: plain\n"), ["a_tuning={epochs: 2}"])
    assert (recipe.a_tuning.epochs, recipe.a_tuning.targets) == (2, "all")


def test_without_a_method_the_default_is_taken(tmp_path: Path) -> None:
    assert load_recipe(mine(tmp_path, "seed: 1\n")).method == DEFAULT_METHOD
    by_hand = load_recipe(mine(tmp_path, "method: null\na_tuning:\n  targets: tail\n"))
    assert (by_hand.method, by_hand.method_title) == (None, "custom")


def test_a_run_of_before_methods_is_as_its_fields_say(tmp_path: Path) -> None:
    fields = load_recipe("tiny", ["method=plain"]).model_dump()
    del fields["method"], fields["a_tuning"]["class_weights"], fields["layout"]["candidate_order"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    saved = saved_recipe(tmp_path)
    assert (saved.method, saved.method_title) == (None, "plain")
    assert saved == parse_recipe(fields, "run.json")
    assert saved == load_recipe("tiny", ["method=plain"]).model_copy(update={"method": None})


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_leave_the_methods_fields_to_it(name: str) -> None:
    """So that `--method` changes all of them, and a new default reaches every recipe but the paper's."""
    stated = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert not [key for key in FIELDS if key.partition(".")[2] in stated.get(key.partition(".")[0], {})]
    assert stated.get("method") == ("two-stage" if name.startswith("paper-") else None)


def test_a_flag_that_names_no_method() -> None:
    with pytest.raises(EdgebError, match=r"--method = 'plian': there is no such method \(did you mean 'plain'\?\)"):
        load_recipe("tiny", ["method=plian"])
