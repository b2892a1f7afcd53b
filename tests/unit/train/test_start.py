"""A run begins, is refused, or takes the place of a start that was killed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.recipes import Recipe, load_recipe
from edge_behavior.runs import saved_recipe
from edge_behavior.train.pipeline import start_run
from tests import helpers


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    candidates = helpers.event_table([["Bar", "Video"] * 4]).candidates
    return SimpleNamespace(path=tmp_path / "data", fingerprint="abc", candidates=candidates)


def test_a_run_begins_and_is_found_again(dataset: Any, tmp_path: Path) -> None:
    recipe = Recipe(seed=3)
    run = start_run(recipe, dataset, tmp_path / "run", resume=False)
    assert load_recipe(str(saved_recipe(run.path))) == recipe
    assert start_run(recipe, dataset, tmp_path / "run", resume=True).state == run.state
    with pytest.raises(EdgebError, match="already exists") as caught:
        start_run(recipe, dataset, tmp_path / "run", resume=False)
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize("left", [[], ["recipe.yaml"], [".recipe.yaml.123"], ["recipe.yaml", ".run.json.77"]])
def test_a_killed_start_leaves_a_folder_that_can_be_begun(dataset: Any, tmp_path: Path, left: list[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in left:
        (out / name).write_text("half")
    assert start_run(Recipe(), dataset, out, resume=False).candidates.labels == dataset.candidates.labels


@pytest.mark.parametrize("there", ["notes.txt", "events.parquet"])
def test_other_folders_are_left_alone(dataset: Any, tmp_path: Path, there: str) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / there).write_text("mine")
    with pytest.raises(EdgebError, match="already exists") as caught:
        start_run(Recipe(), dataset, out, resume=False)
    assert "another --out" in caught.value.hint
    assert [p.name for p in out.iterdir()] == [there]


def test_a_changed_dataset_or_recipe_is_refused(dataset: Any, tmp_path: Path) -> None:
    start_run(Recipe(), dataset, tmp_path / "run", resume=False)
    with pytest.raises(EdgebError, match="another recipe"):
        start_run(Recipe(seed=1), dataset, tmp_path / "run", resume=True)
    dataset.fingerprint = "other"
    with pytest.raises(EdgebError, match="has changed since"):
        start_run(Recipe(), dataset, tmp_path / "run", resume=True)
