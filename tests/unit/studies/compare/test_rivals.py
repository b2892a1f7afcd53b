"""The paper's rivals in a comparison, trained in earnest on a tiny backbone that tuned models share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_behavior.baselines.language.registry import RIVALS
from edge_behavior.baselines.system import SMALL_VALIDATION
from edge_behavior.cli import app
from edge_behavior.errors import EdgebError
from edge_behavior.studies.compare import registry
from edge_behavior.studies.compare.contenders import Other
from edge_behavior.studies.compare.rivals import RivalContender
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder, write_text
from tests.unit.studies.compare.conftest import Asking, Noisy


def compare(*words: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def test_all_of_them_are_listed() -> None:
    listed = compare("--systems", "list").stdout
    assert all(f"{name}: {kind.title}\n" in listed for name, kind in RIVALS.items())


def test_paper_stands_for_the_rows_of_its_tables() -> None:
    known = registry.all_contenders()
    found = set(registry.chosen(known, ["paper"]))
    own = {"sasrec", "bert4rec", "gpt2", "untuned", "plain", "two_stage", "habits"}
    assert found == own | RIVALS.keys()
    assert set(registry.chosen(known, ["paper", "markov_1"])) == found | {"markov_1"}
    # They are asked for by name.
    assert not RIVALS.keys() & set(registry.default_systems(known))
    with pytest.raises(EdgebError, match="no system named 'papers'"):
        registry.chosen(known, ["papers"])


def test_what_is_tuned_takes_the_targets_and_rates_of_tuned_models() -> None:
    tuned = {name for name, held in registry.all_contenders().items() if isinstance(held, RivalContender)}
    assert tuned == RIVALS.keys()
    assert {name for name, kind in RIVALS.items() if not kind.tunes} == {"llm_esr", "alphafuse"}


@pytest.mark.parametrize(("targets", "held_out"), [(None, SMALL_VALIDATION), (300, 20)])
def test_a_recipe_saves_validation_windows_for_what_it_tunes_alone(
    asking: Asking, targets: int | None, held_out: int
) -> None:
    """Few windows are for a slow model; counters and small networks would be fitted on noise."""
    system = Noisy("good", 3.0, rates=(0.1, 0.2))
    bench, _ = asking({"good": Other(system, targets)})
    assert bench.asked.recipe.evaluation.validation_targets == 20
    contender = Other(system, targets)
    assert contender.choose_rate(bench) is not None
    contender.fit(bench, 0, None, 0.1)
    assert system.held_out == [held_out] * 3


@pytest.mark.long
def test_two_of_them_and_a_tuned_model_share_a_backbone(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    write_text(tmp_path / "quick.yaml", recipe.to_yaml())
    out = tmp_path / "out"
    sizes = ("--windows", 12, "--validation", 10, "--rate-targets", 20, "--rates", "0.01,0.02", "--protocol", "natural")
    asked = ("--recipe", tmp_path / "quick.yaml", "--data", data, "--out", out, *sizes)
    small = {"hidden": 16, "layers": 1, "least_steps": 40, "eval_steps": 20, "batch_size": 8}
    events = [word for name, value in small.items() for word in ("--set", f"llara.sasrec.{name}={value}")]
    first = compare(*asked, "--systems", "llara", *events, "--json")
    assert first.exit_code == 0, first.output
    result = compare("--out", out, "--systems", "untuned,llara", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    # Settings stay those that the folder was started with.
    assert document["asked"]["settings"] == {"llara": {"sasrec": small}}
    other = compare("--out", out, "--systems", "llara", "--set", "llara.curriculum=0.5")
    assert "was started with other settings of 'llara'" in str(other.exception)
    assert (document["missing"], document["failed"]) == ([], {})
    assert {"llara", "llara+habits", "untuned", "habits"} <= {row["name"] for row in document["rows"]}
    assert set(document["rates"]["llara"]["measured"]) == {"0.01", "0.02"}
    assert "copied_from" in (RunFolder.open(out / "runs" / "untuned-seed0").done("backbone") or {})
    # Work in progress is gone; what was scored stays.
    assert list((out / "work" / "fits").iterdir()) == []
    assert (out / "predictions" / "llara-seed0-test.npz").is_file()
    # In the first call and in the second it is the same row.
    rows = [next(r for r in json.loads(r.stdout)["rows"] if r["name"] == "llara") for r in (first, result)]
    assert rows[0]["scopes"]["natural"]["weighted_recall"] == rows[1]["scopes"]["natural"]["weighted_recall"]
