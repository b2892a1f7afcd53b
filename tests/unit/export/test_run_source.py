"""What an export takes from a run folder, above all which dataset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ImportOptions
from edge_behavior.errors import EdgebError
from edge_behavior.export.run_source import run_source
from edge_behavior.train.run.folder import write_json
from tests import helpers


def imported(folder: Path, name: str, seed: int, labels: list[str] = helpers.LABELS, places: bool = True) -> Path:
    rows = [
        f"u{user},{event.time.isoformat()},{event.place},{event.behavior}"
        for user in range(12)
        for event in helpers.diary(40, seed + user, labels)
    ]
    log = folder / f"{name}.csv"
    log.write_text("\n".join(["user_id,timestamp,place,behavior", *rows]), encoding="utf-8")
    import_log(log, "csv", folder / name, ImportOptions(places=places))
    return folder / name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return imported(tmp_path, "data", 0)


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    dataset = Dataset.open(data)
    labels, counts = dataset.candidates.labels, dataset.candidates.counts
    state: dict[str, Any] = {
        "schema_version": 1,
        "done": {"a_tuning": {}},
        "backbone": {"path": "org/model", "standin": False},
        "dataset": {"path": str(data), "fingerprint": dataset.fingerprint},
        "candidates": [{"label": a, "count": b} for a, b in zip(labels, counts, strict=True)],
        "layout": PromptLayout().to_dict(),
    }
    folder = tmp_path / "run"
    folder.mkdir()
    write_json(folder / "run.json", state)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "x", "backbone": {"path": "org/model"}}))
    return folder


def test_the_runs_own_dataset(run: Path, data: Path) -> None:
    source = run_source(run, "a_tuning")
    assert (source.data, source.data_note, source.own_data) == (data, "", True)
    assert source.places == tuple(Dataset.open(data).places)
    assert set(source.places) >= {"DK", "AB"}
    assert source.adapter == run / "a_tuning" / "adapter"
    assert source.candidates == Dataset.open(data).candidates


def test_a_dataset_that_is_gone_is_not_used_and_one_that_changed_is_refused(
    run: Path, data: Path, tmp_path: Path
) -> None:
    moved = data.rename(tmp_path / "moved")
    source = run_source(run, "untuned")
    assert (source.data, source.places, source.data_note) == (None, None, "the run's dataset is gone")
    assert run_source(run, "untuned", moved).data == moved
    state = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", state | {"dataset": state["dataset"] | {"fingerprint": "another"}})
    moved.rename(data)
    with pytest.raises(EdgebError, match=r"the dataset .*data has changed since .*run was trained") as caught:
        run_source(run, "untuned")
    assert "--data" in caught.value.hint
    # Named, it is taken for what it is.
    named = run_source(run, "untuned", data)
    assert (named.data, named.own_data) == (data, False)
    shutil.rmtree(data / "events")
    with pytest.raises(EdgebError, match="train"):
        run_source(run, "untuned", data)
    shutil.rmtree(data)
    del state["dataset"]
    write_json(run / "run.json", state)
    assert run_source(run, "untuned").data_note == "the run's dataset is gone"


def test_a_chosen_dataset_must_fit(run: Path, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "other"))
    copied = run_source(run, "untuned", other)
    assert (copied.data, copied.own_data) == (other, True)
    foreign = imported(tmp_path, "foreign", 0, ["Sleep", "Eat", "Run"])
    with pytest.raises(EdgebError, match="different candidate sets"):
        run_source(run, "untuned", foreign)
    with pytest.raises(EdgebError, match="no dataset at"):
        run_source(run, "untuned", tmp_path / "none")
    placeless = imported(tmp_path, "placeless", 0, places=False)
    with pytest.raises(EdgebError, match=r"was trained with places, and .*placeless has none"):
        run_source(run, "untuned", placeless)


def test_stages(run: Path) -> None:
    with pytest.raises(EdgebError, match="b_tuning is not finished"):
        run_source(run)
    with pytest.raises(EdgebError, match="unknown stage 'b_tunin'"):
        run_source(run, "b_tunin")
