"""Bad input and odd environments that once ended in a traceback or in the wrong folder."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner

from edge_behavior.cli import app
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.results import RunMetrics
from edge_behavior.records.history import read_history
from edge_behavior.train.recipe import load_recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.util.workspace import home, recall, remember
from tests.extras import needs_torch


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def any_dataset(monkeypatch):
    """Commands that open their dataset first go on to what is tested."""
    monkeypatch.setattr(Dataset, "open", lambda path: path)


def put(monkeypatch, name, **content):
    made = ModuleType(name)
    made.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, made)


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@needs_torch
def test_the_default_run_folder_has_the_whole_recipe_name(monkeypatch, any_dataset):
    seen = []
    put(
        monkeypatch,
        "edge_behavior.train.pipeline",
        train=lambda recipe, dataset, out, resume, began: seen.append(out) or SimpleNamespace(path=out),
    )
    put(monkeypatch, "edge_behavior.train.run.metrics", read_metrics=lambda r: RunMetrics({}, {}, 0.01, 0))
    put(monkeypatch, "edge_behavior.train.first_look", first_look=lambda settings: None)
    run("train", "--recipe", "qwen2-1.5b", "--data", "data", "--json")
    assert seen == [Path("runs/qwen2-1.5b-data")]


@needs_torch
def test_a_train_that_never_began_is_not_the_last_run(monkeypatch, tmp_path, any_dataset):
    def train(*_, **__):
        raise EdgebError("r already exists", "choose another --out")

    put(monkeypatch, "edge_behavior.train.pipeline", train=train)
    (tmp_path / "good").mkdir()
    (tmp_path / "r").mkdir()
    remember("run", tmp_path / "good")
    with pytest.raises(EdgebError, match="already exists"):
        run("train", "--recipe", "tiny", "--data", "data", "--out", "r")
    assert recall("run") == tmp_path / "good"


def test_export_of_the_folder_one_stands_in(monkeypatch, tmp_path):
    report = SimpleNamespace(
        pruning=SimpleNamespace(mode="off"),
        population=SimpleNamespace(mode="off"),
        habits=SimpleNamespace(mode="off"),
        calibration=SimpleNamespace(mode="off"),
        balance=SimpleNamespace(mode="off"),
        parity=SimpleNamespace(exceeded=[]),
        to_dict=dict,
    )
    put(monkeypatch, "edge_behavior.export.gguf.pipeline", export_gguf=lambda *a, **k: report)
    put(monkeypatch, "edge_behavior.export.run_source", run_source=lambda *a, **k: SimpleNamespace(data=None))
    run("export", ".", "--json")


@pytest.mark.parametrize("value", ["name: 2024-13-45\n", "seed: 0b_\n", "seed: " + "9" * 5000 + "\n"])
def test_yaml_values_that_yaml_itself_chokes_on(tmp_path, value):
    (tmp_path / "r.yaml").write_text(value)
    with pytest.raises(EdgebError):
        load_recipe(str(tmp_path / "r.yaml"))


def test_the_same_in_an_override():
    with pytest.raises(EdgebError):
        load_recipe("tiny", ["name=2024-13-45"])


def test_a_huge_csv_field(tmp_path):
    (tmp_path / "h.csv").write_text("timestamp,place,behavior\n2024-05-01T08:00," + "x" * 3_000_000 + ",y\n")
    with pytest.raises(EdgebError):
        read_history(tmp_path / "h.csv")


def test_a_huge_json_number(tmp_path):
    (tmp_path / "h.jsonl").write_text('{"timestamp": ' + "9" * 5000 + "}\n")
    with pytest.raises(EdgebError):
        read_history(tmp_path / "h.jsonl")


def test_last_json_with_other_types(tmp_path):
    home().mkdir()
    (home() / "last.json").write_text('{"run": 5}')
    with pytest.raises(EdgebError):
        recall("run")


def test_no_home_at_all(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGEB_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    monkeypatch.setenv("HOME", "/home/nobody-of-this-name")
    monkeypatch.delenv("HOME")
    # As for a user id that no account has.
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert not home().parent.is_dir()
    remember("run", tmp_path)


@pytest.mark.parametrize("missing", ["done", "candidates", "layout", "backbone"])
def test_a_run_json_without_a_field(tmp_path, missing):
    state = {
        "schema_version": 1,
        "done": {"a_tuning": {}, "b_tuning": {}},
        "backbone": {"path": "b", "standin": True},
        "candidates": [{"label": "a", "count": 1}, {"label": "b", "count": 1}],
        "layout": {},
    }
    del state[missing]
    (tmp_path / "run.json").write_text(json.dumps(state))
    with pytest.raises(EdgebError, match=f"lacks '{missing}'"):
        RunFolder.open(tmp_path)
