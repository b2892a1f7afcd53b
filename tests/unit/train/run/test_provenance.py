"""A run's files are those of its training, or the one that is not is named: for export, evaluate and predict alike."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from edge_behavior.commands.open import open_predictor
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.protocols import WindowChoice
from edge_behavior.export.run_source import run_source
from edge_behavior.train.evaluate_run import evaluate_run
from edge_behavior.train.recipe import LoraSettings, Recipe, parse_recipe
from edge_behavior.train.run.folder import RunFolder, write_json
from edge_behavior.train.run.provenance import check_run
from edge_behavior.train.run.stage_record import finish
from edge_behavior.train.run.start import start_run
from edge_behavior.train.stage_list import TUNED
from edge_behavior.train.trainer.lora import lora_config
from tests import helpers
from tests.command import edgeb_here

CHOICE = WindowChoice(1, 1, 2, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("provenance") / "data"
    edgeb_here("data", "synth", "--users", 12, "--days", 5, "--seed", 1, "--out", folder)
    return folder


def finished(folder: Path, data: Path, standin: bool) -> RunFolder:
    """A run with every stage done, on a backbone of its own or on one beside it."""
    dataset, tokens = Dataset.open(data), helpers.tokenizer()
    base = folder / ("run/backbone" if standin else "base")
    recipe = Recipe() if standin else parse_recipe({"backbone": {"path": str(base)}}, "test")
    if not standin:
        helpers.save(helpers.model(tokens), tokens, base)
    run = start_run(recipe, dataset, folder / "run", resume=False)
    model = helpers.model(tokens)
    if standin:
        helpers.save(model, tokens, base)
    adapted = get_peft_model(model, lora_config(LoraSettings(rank=4)))
    for stage in TUNED:
        adapted.save_pretrained(str(run.adapter(stage)))
    write_json(run.path / "metrics.json", {"models": {"b_tuning": {"natural": {"overall": 0.25}}}})
    for stage in ("backbone", *TUNED, "evaluation"):
        finish(run, stage, {}, recipe)
    return run


@pytest.fixture(scope="module", params=[True, False], ids=["stand-in", "folder"])
def original(request: Any, tmp_path_factory: pytest.TempPathFactory, data: Path) -> RunFolder:
    return finished(tmp_path_factory.mktemp("run"), data, request.param)


@pytest.fixture
def run(original: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy in another place: that changes nothing but times."""
    shutil.copytree(original.path.parent, tmp_path / "copy")
    copy = RunFolder(tmp_path / "copy" / "run")
    if not copy.state.backbone.standin:
        copy.update(backbone=copy.state.backbone.model_copy(update={"path": str(tmp_path / "copy" / "base")}))
    return copy


def rewritten(file: Path) -> None:
    tensors = {name: tensor * 1.5 for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def one_digit(file: Path) -> None:
    """Another number of the same length: neither size nor syntax tells."""
    text = file.read_text()
    at = next(i for i, c in enumerate(text) if c.isdigit() and c != "0")
    file.write_text(text[:at] + ("2" if text[at] == "1" else "1") + text[at + 1 :])


CHANGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "weights": ("BASE/model.safetensors", rewritten, "has changed since"),
    "config": ("BASE/config.json", one_digit, "has changed since"),
    "tokenizer": ("BASE/tokenizer.json", one_digit, "has changed since"),
    "tokenizer settings": ("BASE/tokenizer_config.json", lambda f: f.write_text("{}"), "has changed since"),
    "weights gone": ("BASE/model.safetensors", Path.unlink, "is gone"),
    "an adapter that came": ("BASE/adapter_config.json", lambda f: f.write_text("{}"), "was not there when"),
    "adapter": ("RUN/b_tuning/adapter/adapter_model.safetensors", rewritten, "has changed since"),
    "adapter settings": ("RUN/b_tuning/adapter/adapter_config.json", one_digit, "has changed since"),
    "adapter gone": ("RUN/b_tuning/adapter/adapter_model.safetensors", Path.unlink, "is gone"),
    "adapter cut": (
        "RUN/b_tuning/adapter/adapter_model.safetensors",
        lambda f: f.write_bytes(f.read_bytes()[:-50]),
        "has changed since",
    ),
}


def place(run: RunFolder, name: str) -> Path:
    return Path(name.replace("BASE", run.backbone).replace("RUN", str(run.path)))


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_named_everywhere(run: RunFolder, data: Path, name: str) -> None:
    where, change, message = CHANGES[name]
    file = place(run, where)
    change(file)
    users: dict[str, Callable[[], object]] = {
        "export": lambda: run_source(run.path),
        "predict": lambda: open_predictor(run.path),
        "evaluate": lambda: evaluate_run(run.path, data, "natural", "test", CHOICE, TUNED[-1:]),
    }
    for user, use in users.items():
        with pytest.raises(EdgebError) as caught:
            use()
        assert caught.value.message.startswith(f"{file} {message}"), user
        assert caught.value.hint


def test_the_command_ends_in_one_line(run: RunFolder, data: Path) -> None:
    rewritten(place(run, "BASE/model.safetensors"))
    for words in (["export", run.path], ["evaluate", run.path, "--data", data]):
        said = edgeb_here(*words, code=2).stderr.strip().splitlines()
        assert said[-1].startswith(f"edgeb: {place(run, 'BASE/model.safetensors')} has changed since")


def test_what_nobody_reads_may_change(run: RunFolder) -> None:
    (run.path / "report.html").write_text("edited")
    (run.adapter("b_tuning") / "README.md").write_text("edited")
    for folder in (Path(run.backbone), run.adapter("b_tuning")):
        for name in (".DS_Store", "notes.md", "._config.json"):
            (folder / name).write_text("left here")
    rewritten(run.adapter("a_tuning") / "adapter_model.safetensors")
    source = run_source(run.path)
    assert source.evaluation == {"natural": {"overall": 0.25}}
    open_predictor(run.path).close()
    with pytest.raises(EdgebError, match=r"a_tuning/adapter/adapter_model\.safetensors has changed since"):
        run_source(run.path, "a_tuning")


def test_metrics_that_changed_are_not_exported(run: RunFolder) -> None:
    one_digit(run.path / "metrics.json")
    with pytest.raises(EdgebError, match=r"metrics\.json has changed since"):
        run_source(run.path)
    open_predictor(run.path).close()


def test_predicting_takes_a_backbone_of_the_same_size_and_time_for_the_same(data: Path, tmp_path: Path) -> None:
    """Hashing gigabytes for every prediction would cost seconds; export and evaluation do it."""
    run = finished(tmp_path, data, standin=False)
    read: list[str] = []

    def checksum(path: Path) -> str:
        read.append(path.name)
        return "unread"

    check_run(run, (), checksum=checksum, trust_times=True)
    assert read == []
    file = Path(run.backbone) / "model.safetensors"
    before = file.stat()
    rewritten(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    check_run(run, (), trust_times=True)
    with pytest.raises(EdgebError, match=r"model\.safetensors has changed"):
        check_run(run, ())


def test_runs_of_older_versions_have_less_on_record(run: RunFolder) -> None:
    state = {key: value for key, value in run.state.to_dict().items() if key not in ("inputs", "made")}
    write_json(run.path / "run.json", state)
    rewritten(run.adapter("b_tuning") / "adapter_model.safetensors")
    check_run(run, TUNED)


def test_evaluation_says_whose_dataset_it_is(data: Path, tmp_path: Path) -> None:
    run, other = finished(tmp_path / "a", data, standin=True), tmp_path / "other"
    found = evaluate_run(run.path, data, "natural", "test", CHOICE, TUNED[-1:]).to_dict()
    assert found["dataset"] == {"path": str(data), "fingerprint": Dataset.open(data).fingerprint, "own": True}
    shutil.copytree(data, other)
    words = ["evaluate", run.path, "--protocol", "natural", "--limit", 2, "--no-untuned", "--json", "--data"]
    assert "is not the dataset that" not in edgeb_here(*words, data).stderr
    run.update(dataset={"path": str(data), "fingerprint": "another"})
    done = edgeb_here(*words, other)
    assert f"{other} is not the dataset that {run.path} was trained on" in done.stderr
    assert json.loads(done.stdout)["dataset"]["own"] is False


def test_evaluation_reads_no_events_that_changed(data: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from edge_behavior.data.dataset import event_file

    run, other = finished(tmp_path / "a", data, standin=True), tmp_path / "other"
    shutil.copytree(data, other)
    file = event_file(other, "test")
    table = pq.read_table(file)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0)).tolist()
    column = table.schema.get_field_index("behavior")
    pq.write_table(table.set_column(column, table.schema.field(column), table["behavior"].take(order)), file)
    with pytest.raises(EdgebError, match="column behavior, has changed since the log was imported"):
        evaluate_run(run.path, other, "natural", "test", CHOICE, TUNED[-1:])


def test_the_hub_is_held_to_what_it_gave(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file behind the same commit, or another commit, is another backbone."""
    import huggingface_hub

    tokens, commit = helpers.tokenizer(), "0123456789abcdef0123456789abcdef01234567"
    base = helpers.save(helpers.model(tokens), tokens, tmp_path / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(base))
    recipe = parse_recipe({"backbone": {"path": "org/model", "revision": commit}}, "test")
    run = start_run(recipe, Dataset.open(data), tmp_path / "run", resume=False)
    assert run.backbone == "org/model"
    assert "model.safetensors" in run.state.inputs["backbone.path"]
    check_run(run, (), commit)
    rewritten(base / "model.safetensors")
    with pytest.raises(EdgebError, match=r"model\.safetensors has changed"):
        check_run(run, (), commit, trust_times=True)
