"""`edgeb ablate` end to end: two real runs, a dry run, a report of what is there, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from edge_behavior.cli import app
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.train.pipeline import train
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import write_text
from edge_behavior.train.run.metrics import read_metrics
from tests.page import Page


@pytest.fixture(scope="module")
def recipe_file(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "quick.yaml"
    write_text(path, recipe.to_yaml())
    return path


def ablate(*words: object) -> Result:
    return CliRunner().invoke(app, ["ablate", *map(str, words)])


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def made(data: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("made") / "ablation"
    asked = ("--recipe", recipe_file, "--data", data, "--out", out, "--only", "confusion", "--seeds", 1)
    planned = document(ablate(*asked, "--dry-run", "--json"))
    assert not out.exists()
    assert [row["run"] for row in planned["list"]] == ["full-seed0", "confusion_as-printed-seed0"]
    assert planned["stages"]["a_tuning"] == {"left": 1, "unshared": 2}
    return out, document(ablate(*asked, "--json"))


def test_runs_and_report(made: tuple[Path, dict[str, Any]]) -> None:
    out, summary = made
    assert summary == json.loads((out / "ablation.json").read_text())
    assert summary["missing"] == []
    assert summary["failed"] == {}
    printed = json.loads((out / "runs" / "confusion_as-printed-seed0" / "run.json").read_text())["done"]
    assert printed["a_tuning"]["copied_from"] == "full-seed0"
    assert "copied_from" not in printed["b_tuning"]
    page = Page((out / "ablation.html").read_text())
    assert page.links
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "Confusion rule" in page.text
    lines = (out / "ablation.md").read_text().splitlines()
    assert any(re.match(r"\| as printed \| [.\d]+ \|", line) for line in lines)
    # Every row of a table has as many cells as its head.
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_a_run_is_the_one_train_makes(
    made: tuple[Path, dict[str, Any]], data: Path, recipe: Recipe, tmp_path: Path
) -> None:
    alone = read_metrics(train(recipe, Dataset.open(data), tmp_path / "alone")).final["natural"]
    held = made[1]["full"]["metrics"]["natural"]
    assert held["weighted_recall"]["values"] == [alone.weighted_recall]
    assert held["nll"]["values"] == [alone.nll]


def test_going_on_takes_what_the_folder_knows(made: tuple[Path, dict[str, Any]]) -> None:
    out, summary = made
    before = (out / "runs" / "full-seed0" / "run.json").stat().st_mtime_ns
    assert document(ablate("--out", out, "--json")) == summary
    assert (out / "runs" / "full-seed0" / "run.json").stat().st_mtime_ns == before
    (out / "ablation.html").unlink()
    assert document(ablate("--out", out, "--report", "--json")) == summary
    assert (out / "ablation.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "{tmp}/new"), "no recipe was given"),
        (("--out", "{tmp}/new", "--report"), "holds no ablation"),
        (("--out", "{out}", "--report", "--dry-run"), "--report takes what the folder has"),
        (("--out", "{out}", "--set", "seed=3"), "--set or --method without --recipe"),
        (("--out", "{out}", "--recipe", "{recipe}", "--set", "seed=3"), "started with another recipe"),
        (("--out", "{out}", "--only", "confusions"), "no study named"),
        (("--out", "{out}", "--only", "aux_data"), "has no data"),
        (("--out", "{out}", "--aux", "talk=none.json"), "--aux talk: there is no file"),
        (("--out", "{out}", "--aux", "foo"), "--aux foo: there is no file"),
    ],
)
def test_refusals(
    words: tuple[str, ...], message: str, made: tuple[Path, dict[str, Any]], recipe_file: Path, tmp_path: Path
) -> None:
    filled = [word.format(tmp=tmp_path, out=made[0], recipe=recipe_file) for word in words]
    result = ablate(*filled)
    assert isinstance(result.exception, EdgebError)
    assert message in str(result.exception)
    assert result.exception.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_exits_with_1(data: Path, recipe_file: Path, tmp_path: Path) -> None:
    """A file that holds no conversation; the full recipe's run goes through."""
    (tmp_path / "talk.jsonl").write_text("no conversation\n")
    out = tmp_path / "out"
    words = ("--recipe", recipe_file, "--data", data, "--out", out, "--seeds", 1, "--only", "aux_data")
    result = ablate(*words, "--aux", f"bad={tmp_path / 'talk.jsonl'}", "--set", "b_tuning.method=none", "--json")
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert list(summary["failed"]) == ["aux_bad-seed0"]
    assert "talk.jsonl:1: not a conversation" in summary["failed"]["aux_bad-seed0"]
    assert summary["full"]["finished"] == 1
