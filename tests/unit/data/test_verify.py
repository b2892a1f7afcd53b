"""Files that were changed behind the description's back are noticed, with equal row counts too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_behavior.data import verify as module
from edge_behavior.data.dataset import SPLITS, Dataset, event_file
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.verify import verify
from edge_behavior.errors import EdgebError


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, make_rows: Any, write_csv: Any) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    import_log(write_csv(folder / "log.csv", make_rows(users=10)), "csv", folder / "data")
    return folder / "data"


@pytest.fixture
def folder(tmp_path: Path, imported: Path) -> Path:
    shutil.copytree(imported, tmp_path / "data")
    return tmp_path / "data"


def rewrite(file: Path, column: str, change: Any) -> None:
    table = pq.read_table(file)
    values = change(table.column(column).to_numpy().copy())
    index = table.schema.get_field_index(column)
    field = table.schema.field(index)
    pq.write_table(table.set_column(index, field, pa.array(values).cast(field.type)), file)


def swap(values: Any) -> Any:
    """Other codes of the same set, so that only the content differs."""
    return np.roll(values, 1)


@pytest.mark.parametrize("size", [7, 1 << 18])
def test_what_was_imported_passes_whatever_the_batches(
    imported: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", size)
    read: list[int] = []
    dataset = Dataset.open(imported)
    verify(dataset, read.append)
    assert sum(read) == sum(dataset.info.splits[split].events for split in SPLITS)
    assert max(read) <= size


def test_the_same_events_in_another_encoding_pass(folder: Path) -> None:
    for split in SPLITS:
        file = event_file(folder, split)
        pq.write_table(pq.read_table(file), file, compression="none", row_group_size=5)
    verify(Dataset.open(folder))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("column", ["time", "place", "behavior"])
def test_a_changed_column_is_named(folder: Path, split: str, column: str) -> None:
    file = event_file(folder, split)
    before = pq.read_table(file)
    rewrite(file, column, swap)
    assert not pq.read_table(file).equals(before)
    with pytest.raises(EdgebError, match=rf"{split}\.parquet, column {column}, has changed") as caught:
        verify(Dataset.open(folder))
    assert caught.value.hint == "import the log again"


def test_renamed_places_are_noticed(folder: Path) -> None:
    rewrite(folder / "places.parquet", "name", lambda names: np.array([f"{name}!" for name in names]))
    with pytest.raises(EdgebError, match=r"places\.parquet has changed"):
        verify(Dataset.open(folder))


def test_a_page_that_cannot_be_decoded_is_named(folder: Path) -> None:
    file = event_file(folder, "train")
    content = bytearray(file.read_bytes())
    # Behind the magic bytes the first page begins; the footer stays whole.
    content[8:60] = bytes(52)
    file.write_bytes(bytes(content))
    with pytest.raises(EdgebError, match=r"train\.parquet"):
        verify(Dataset.open(folder))


def test_a_column_that_is_missing_is_named(folder: Path) -> None:
    file = event_file(folder, "test")
    pq.write_table(pq.read_table(file).drop_columns(["place"]), file)
    with pytest.raises(EdgebError, match=r"test\.parquet"):
        verify(Dataset.open(folder))
