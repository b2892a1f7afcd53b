"""What lies at a recipe's paths is known by content, and read once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe, parse_recipe
from edge_behavior.train.run import inputs
from edge_behavior.train.run.inputs import digests, first_difference, located, pinned, read_inputs
from edge_behavior.util import checksums


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    base = tmp_path / "base"
    (base / "deeper").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "merges.txt", "README.md", "deeper/config.json"):
        (base / name).write_text(name)
    (tmp_path / "talk.jsonl").write_text("talk")
    return parse_recipe(
        {"backbone": {"path": str(base)}, "a_tuning": {"aux_path": str(tmp_path / "talk.jsonl")}}, "test"
    )


def test_files_that_training_reads_are_hashed(recipe: Recipe) -> None:
    found = read_inputs(recipe)
    assert set(found["backbone.path"]) == {"config.json", "merges.txt", "model.safetensors"}
    assert found["a_tuning.aux_path"]["talk.jsonl"].sha256 == hashlib.sha256(b"talk").hexdigest()


def test_nothing_is_read_where_nothing_is_pointed_to(tmp_path: Path, recipe: Recipe) -> None:
    assert read_inputs(Recipe()) == {}
    unused = {"aux_path": str(tmp_path / "talk.jsonl"), "aux_ratio": 0}
    assert read_inputs(parse_recipe({"backbone": {"path": "hub/name"}, "a_tuning": unused}, "test")) == {}


def test_a_file_of_the_same_size_and_time_is_not_read_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = read_inputs(recipe)
    read: list[str] = []
    inputs._checksum.cache_clear()
    monkeypatch.setattr(inputs, "sha256_with_bar", lambda path, hidden: read.append(path.name) or "new")
    assert read_inputs(recipe, known) == known
    assert read == []
    status = (tmp_path / "talk.jsonl").stat()
    os.utime(tmp_path / "talk.jsonl", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert read_inputs(recipe, known)["a_tuning.aux_path"]["talk.jsonl"].sha256 == "new"
    assert read == ["talk.jsonl"]
    inputs._checksum.cache_clear()


def test_large_files_are_read_under_a_bar_and_give_the_same(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    small = read_inputs(recipe)
    inputs._checksum.cache_clear()
    monkeypatch.setattr(checksums, "_SHOWN_FROM", 1)
    assert read_inputs(recipe) == small


def test_a_copy_of_a_file_is_the_same_file(recipe: Recipe, tmp_path: Path) -> None:
    before = read_inputs(recipe)
    os.utime(tmp_path / "talk.jsonl", (1, 1))
    after = read_inputs(recipe, before)
    assert after != before
    assert digests(after) == digests(before)
    assert first_difference(before["a_tuning.aux_path"], after["a_tuning.aux_path"]) is None


def test_the_file_that_differs_is_named(recipe: Recipe, tmp_path: Path) -> None:
    before = read_inputs(recipe)
    (tmp_path / "base" / "merges.txt").write_text("other words")
    after = read_inputs(recipe, before)
    assert first_difference(before["backbone.path"], after["backbone.path"]) == "merges.txt"
    assert first_difference(before["backbone.path"], {}) == "config.json"
    assert digests(before)["backbone.path"] != digests(after)["backbone.path"]
    assert digests(before)["a_tuning.aux_path"] == digests(after)["a_tuning.aux_path"]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def recipe_of(path: str | None, talk: str | None = None, revision: str | None = None) -> Recipe:
    return parse_recipe({"backbone": {"path": path, "revision": revision}, "a_tuning": {"aux_path": talk}}, "test")


def paths(recipe: Recipe) -> tuple[str | None, str | None]:
    return recipe.backbone.path, recipe.a_tuning.aux_path


def test_paths_become_absolute_and_hub_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "org/model").mkdir(parents=True)
    (tmp_path / "home/bb").mkdir(parents=True)
    here = tmp_path.resolve()
    assert paths(located(recipe_of("./org/model", "talk.jsonl"))) == (f"{here}/org/model", f"{here}/talk.jsonl")
    assert paths(located(recipe_of("~/bb", "~/talk.jsonl"))) == (f"{here}/home/bb", f"{here}/home/talk.jsonl")
    assert paths(located(recipe_of("org/model"))) == (f"{here}/org/model", None)
    for kept in (recipe_of("org/other"), recipe_of("org/model", revision="main"), Recipe()):
        assert located(kept) == kept
    with pytest.raises(EdgebError, match="does not exist"):
        located(recipe_of("./nowhere"))


def test_a_run_of_before_has_relative_paths_from_a_folder_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work/bb").mkdir(parents=True)
    (tmp_path / "work/talk.jsonl").write_text("")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run, work = tmp_path / "work/runs/mine", (tmp_path / "work").resolve()
    found = located(recipe_of("./bb", "talk.jsonl"), run)
    assert paths(found) == (f"{work}/bb", f"{work}/talk.jsonl")
    # What is gone is told when it is read, and by the name it had.
    assert paths(located(recipe_of("./gone"), run)) == ("./gone", None)
    assert located(found, run) == found


def test_a_hub_name_is_pinned_to_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    asked: list[Any] = []

    def find(base: str, revision: str | None = None, weights: bool = True) -> Path:
        asked.append((base, revision, weights))
        return tmp_path / "snapshots" / COMMIT

    monkeypatch.setattr(inputs, "find_backbone", find)
    for revision in (None, "v2"):
        assert pinned(recipe_of("org/model", revision=revision)).backbone.revision == COMMIT
    assert asked == [("org/model", None, False), ("org/model", "v2", False)]
    for kept in (recipe_of("org/model", revision=COMMIT), recipe_of(str((tmp_path / "base").resolve())), Recipe()):
        assert pinned(kept) == kept
    assert len(asked) == 2
