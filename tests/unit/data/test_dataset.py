"""The dataset folder: what is refused, what the columns hold, and what the fingerprint depends on."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.data.dataset import SPLITS, Dataset, EventTable
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.info import read_info
from edge_behavior.errors import EdgebError


@pytest.fixture(scope="module")
def imported(tmp_path_factory, make_rows, write_csv) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    import_log(write_csv(folder / "log.csv", make_rows(users=10)), "csv", folder / "data")
    return folder / "data"


@pytest.fixture
def folder(tmp_path, imported) -> Path:
    shutil.copytree(imported, tmp_path / "data")
    return tmp_path / "data"


def test_the_files_have_the_documented_types(imported):
    for split in SPLITS:
        schema = pq.read_schema(imported / "events" / f"{split}.parquet")
        assert [str(kind) for kind in schema.types] == ["int32", "timestamp[ms]", "int32", "int16"]
    assert sorted(p.name for p in imported.iterdir()) == ["dataset.json", "events", "places.parquet", "users.parquet"]
    places = pq.read_table(imported / "places.parquet").to_pylist()
    assert [p["events"] for p in places] == sorted((p["events"] for p in places), reverse=True)


def test_columns_have_the_documented_types(imported):
    dataset = Dataset.open(imported)
    table = dataset.events("train")
    assert (table.user_offsets.dtype, table.time.dtype) == (np.int64, "datetime64[s]")
    assert (table.place.dtype, table.behavior.dtype, table.users.dtype) == (np.int32, np.int32, np.int32)
    assert table.user_offsets[0] == 0
    assert table.user_offsets[-1] == len(table) == dataset.info.splits["train"].events
    for user in range(len(table.users)):
        times = table.time[table.user_offsets[user] : table.user_offsets[user + 1]]
        assert (np.diff(times.astype(np.int64)) >= 0).all()
    assert np.bincount(table.behavior, minlength=len(dataset.candidates)).tolist() == list(dataset.candidates.counts)


def test_history_by_hand():
    table = EventTable(
        user_offsets=np.array([0, 3, 5]),
        time=np.array(
            ["2024-03-01T10:00", "2024-03-01T11:00", "2024-03-02T12:00", "2024-03-01", "2024-03-02"], "M8[s]"
        ),
        place=np.array([0, 1, 0, 1, 0], np.int32),
        behavior=np.array([1, 0, 1, 0, 0], np.int32),
        places=["home", "work"],
        candidates=CandidateSet.of(["A", "B"]),
    )
    assert table.event(2) == BehaviorEvent("home", datetime(2024, 3, 2, 12), "B")
    assert [e.time.hour for e in table.history(2, 20)] == [10, 11]
    assert table.history(2, 1) == [BehaviorEvent("work", datetime(2024, 3, 1, 11), "A")]
    assert table.history(3, 20) == table.history(0, 20) == []
    assert table.history(4, 20) == [table.event(3)]
    assert table.user_of([0, 2, 3, 4]).tolist() == [0, 0, 1, 1]
    assert table.users.tolist() == [0, 1]


def test_the_fingerprint_is_of_the_content(folder, tmp_path, make_rows, write_csv):
    original = Dataset.open(folder).fingerprint
    assert len(original) == 64
    changed = make_rows(users=10)
    changed[5] = (*changed[5][:2], "elsewhere", changed[5][3])
    import_log(write_csv(tmp_path / "other.csv", changed), "csv", tmp_path / "other")
    assert Dataset.open(tmp_path / "other").fingerprint != original
    import_log(write_csv(tmp_path / "same.csv", make_rows(users=10)), "csv", tmp_path / "same")
    assert Dataset.open(tmp_path / "same").fingerprint == original


def edit(folder: Path, **changes: object) -> None:
    file = folder / "dataset.json"
    info = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


def test_refuses_what_it_cannot_trust(folder, tmp_path):
    def refused(message: str, path: Path = folder) -> None:
        with pytest.raises(EdgebError, match=message) as caught:
            Dataset.open(path)
        assert caught.value.hint

    refused("no dataset at", tmp_path / "nowhere")
    refused("not a dataset folder", tmp_path)
    refused("is a file", folder / "dataset.json")
    edit(folder, schema_version=3)
    refused("dataset version 3; this edgeb reads 2")
    edit(folder, schema_version="one")
    refused("not an edgeb dataset description")
    edit(folder, schema_version=1, span=None)
    refused("lacks 'span'")
    (folder / "dataset.json").write_text((folder / "dataset.json").read_text()[:200])
    refused("cannot read")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.pop("place"), r"dataset\.json lacks 'place'"),
        (lambda info: info["place"].pop("count"), r"dataset\.json lacks 'place\.count'"),
        (lambda info: info["splits"].pop("test"), r"dataset\.json lacks 'splits\.test'"),
        (lambda info: info["content"].pop("users"), r"dataset\.json lacks 'content\.users'"),
        (lambda info: info.update(rows=[]), r"dataset\.json: 'rows' is not an object"),
        (lambda info: info["users"].update(kept="10"), "'users.kept' is not a whole number"),
        (lambda info: info["users"].update(kept=True), "'users.kept' is not a whole number"),
        (lambda info: info["splits"]["test"].update(events=None), "'splits.test.events' is not a whole number"),
        (lambda info: info["events_per_user"].update(mean="many"), "'events_per_user.mean' is not a number"),
        (lambda info: info["candidates"]["labels"].append(7), r"'candidates.labels\[4\]' is not text"),
        (lambda info: info["candidates"]["labels"].append("Extra"), r"dataset\.json: 4 counts for 5 labels"),
        (lambda info: info.update(warnings="none"), "'warnings' is not a list"),
    ],
)
def test_a_description_with_a_bad_field_is_one_line(folder, change, message):
    file = folder / "dataset.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))
    with pytest.raises(EdgebError, match=message) as caught:
        Dataset.open(folder)
    assert caught.value.hint == "import the log again"


def test_the_description_reads_back_to_the_same_file(folder):
    text = (folder / "dataset.json").read_text()
    assert json.dumps(read_info(folder).to_dict(), ensure_ascii=False, indent=1) + "\n" == text
    # What an older edgeb left out, and what a newer one added.
    edit(folder, warnings=None, later=[1])
    assert read_info(folder).to_dict() == json.loads(text)


@pytest.mark.parametrize("name", ["events/train.parquet", "users.parquet", "places.parquet"])
def test_refuses_parts_that_are_missing_cut_or_swapped(folder, imported, name):
    file = folder / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(EdgebError, match="damaged or cut short"):
        Dataset.open(folder)
    file.unlink()
    with pytest.raises(EdgebError, match="is missing"):
        Dataset.open(folder)
    shutil.copy(imported / "events/test.parquet", file)
    with pytest.raises(EdgebError, match=r"has 30 (events|rows), not"):
        Dataset.open(folder)


def test_an_unknown_split_is_named(imported):
    with pytest.raises(EdgebError, match="unknown split 'valid'") as caught:
        Dataset.open(imported).events("valid")
    assert "validation" in caught.value.hint
