"""`edgeb compare` with tuned models trained in earnest, tiny ones, beside a system that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edge_behavior.cli import app
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.hf.tree_scoring import TorchScorer
from edge_behavior.studies.compare import registry
from edge_behavior.studies.compare.contenders import Contender, Tuned, TunedModel
from edge_behavior.train.plan import speed
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder, write_text
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.standin import model as standin
from tests.unit.studies.compare.conftest import Noisy, contenders

PLAIN = {"a_tuning.targets": "all", "a_tuning.aux_ratio": 0.0, "b_tuning.method": "none"}
NONE = {"a_tuning.method": "none", "b_tuning.method": "none"}


def known(endpoint: object = None, settings: object = None) -> dict[str, Contender]:
    tuned = (Tuned("untuned", "untuned backbone", NONE), Tuned("plain", "plain fine-tuning", PLAIN))
    return {**contenders(Noisy("small", 1.0)), **{held.name: held for held in tuned}}


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "all_contenders", known)


def compare(*words: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


@pytest.fixture(scope="module")
def made(data: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder, documents = tmp_path_factory.mktemp("compare"), standin._TOKENIZER_DOCUMENTS
    write_text(folder / "quick.yaml", recipe.to_yaml())
    asked = ("--recipe", folder / "quick.yaml", "--data", data, "--out", folder / "out", "--windows", 12)
    asked += ("--validation", 10, "--rate-targets", 20, "--rates", "0.01,0.02")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "all_contenders", known)
        patch.setattr(standin, "_TOKENIZER_DOCUMENTS", 200)
        own, timed = speed.flops_per_second, []
        patch.setattr(speed, "flops_per_second", lambda *a: timed.append(own(*a)) or timed[-1])
        planned = json.loads(compare(*asked, "--dry-run", "--json").stdout)
        assert not (folder / "out").exists()
        assert planned["runs"] == ["untuned-seed0", "rate-plain-0.01", "rate-plain-0.02", "plain-seed0"]
        assert planned["stages"]["backbone"]["left"] == 1
        time = planned["time"]
        assert len(timed) == 1
        assert list(time["systems"]) == ["untuned", "plain"]
        assert (time["refused"], time["not_estimated"]) == ({}, ["habits", "small"])
        assert time["total"] == pytest.approx(sum(spent["total"] for spent in time["systems"].values()), abs=0.1)
        shown = compare(*asked, "--dry-run").stdout
        assert "time at most" in shown
        assert "not estimated: habits, small" in shown
        patch.setattr(standin, "_TOKENIZER_DOCUMENTS", documents)
        result = compare(*asked, "--json")
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_runs_rates_and_report(made: tuple[Path, dict[str, Any]], recipe: Recipe) -> None:
    folder, results = made
    out = folder / "out"
    assert (results["missing"], results["failed"]) == ([], {})
    assert set(results["rates"]["plain"]["measured"]) == {"0.01", "0.02"}
    run = RunFolder.open(out / "runs" / "plain-seed0")
    assert run.recipe.a_tuning.learning_rate == results["rates"]["plain"]["rate"]
    # No run made a backbone of its own, or was evaluated by the pipeline.
    assert "copied_from" in (run.done("backbone") or {})
    assert run.done("evaluation") is None
    assert not (run.path / "compare_scores").exists()
    names = {row["name"] for row in results["rows"]}
    assert {"untuned", "plain", "plain+habits", "plain+habits+prior", "small", "habits"} <= names
    plain = next(row for row in results["rows"] if row["name"] == "plain")
    assert {"natural", "balanced", "cold0", "cold10"} <= set(plain["scopes"])
    left = json.loads(compare("--out", out, "--dry-run", "--json").stdout)
    assert (left["time"], left["runs"]) == (None, [])
    # What another call would do: what was asked for before, too.
    more = json.loads(compare("--out", out, "--systems", "small", "--seeds", 2, "--dry-run", "--json").stdout)
    assert {one["system"]: one["left"] for one in more["entries"] if one["left"]} == {"small": [1]}
    assert [one["system"] for one in left["entries"]] == [one["system"] for one in more["entries"]]
    again = compare("--out", out, "--report", "--json")
    assert json.loads(again.stdout) == results


def test_a_tuned_model_sees_only_the_known_events(made: tuple[Path, dict[str, Any]], data: Path) -> None:
    run, table = RunFolder.open(made[0] / "out" / "runs" / "plain-seed0"), Dataset.open(data).events("test")
    recipe, targets = run.recipe, np.array([30, 12, 77])
    models = RunModels(run, recipe.backbone)
    scorer, encoder = TorchScorer(models.load("b_tuning"), models.encoder), models.encoder
    fitted = TunedModel(run, recipe, "b_tuning")
    for shown in (0, 1, 3, None):
        events = [table.event(int(target)) for target in targets]
        length = encoder.layout.history_length if shown is None else shown
        prompts = [
            encoder.prompt_ids(table.history(int(t), length), e.time, e.place)
            for t, e in zip(targets, events, strict=True)
        ]
        expected = log_softmax(scorer.score(prompts).log_probs)
        assert np.allclose(fitted.log_probs(table, targets, shown), expected, atol=1e-4)
    fitted.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "{out}", "--systems", "plian"), "no system named 'plian'"),
        (("--out", "{out}", "--systems", "plain,endpoint"), "needs an endpoint"),
        (("--out", "{out}", "--endpoint", "http://far.example/v1"), "unencrypted"),
        (("--out", "{out}", "--endpoint-model", "small"), "--endpoint-model without --endpoint"),
        (("--out", "{out}", "--set", "seed=3"), "--set without --recipe"),
        (("--out", "{out}", "--systems", "habits", "--set", "plain.x=1"), "--set plain: that system takes no part"),
        (("--out", "{out}", "--set", "habits.x=1"), "--set habits: that system has no settings"),
        (("--out", "{out}", "--report", "--authors"), "--report takes what the folder has"),
        (("--out", "{out}", "--recipe", "{recipe}", "--set", "seed=3"), "started with another recipe"),
        (("--out", "{out}", "--report", "--dry-run"), "--report takes what the folder has"),
        (("--out", "{out}", "--windows", "20"), "started with --windows 12"),
        (("--out", "{tmp}/new", "--recipe", "{recipe}", "--data", "{data}", "--rates", "fast"), "--rates fast"),
        (("--out", "{tmp}/new", "--recipe", "{recipe}", "--data", "{data}", "--sweep", "target"), "no sweep"),
        (("--out", "{tmp}/new", "--recipe", "{recipe}", "--data", "{data}", "--protocol", "all"), "unknown protocol"),
        (("--out", "{tmp}/new", "--report"), "holds no comparison"),
        (("--out", "{out}", "--cold", "few"), "--cold few: not whole numbers"),
        (("--out", "{out}", "--cold", "none", "--protocol", "natural"), "started with --protocol both"),
        (
            ("--out", "{tmp}/new", "--recipe", "{recipe}", "--data", "{data}", "--cold", "1", "--protocol", "balanced"),
            "cold starts are natural windows",
        ),
    ],
)
def test_refusals(
    words: tuple[str, ...], message: str, made: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    folder = made[0]
    filled = [w.format(out=folder / "out", recipe=folder / "quick.yaml", data=data, tmp=tmp_path) for w in words]
    result = compare(*filled)
    assert isinstance(result.exception, EdgebError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_systems_are_listed() -> None:
    assert "plain: plain fine-tuning" in compare("--systems", "list").stdout
