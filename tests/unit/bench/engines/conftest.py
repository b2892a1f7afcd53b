"""A small log, and bundles of one model in two formats that predict its labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ImportOptions
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from tests import helpers, litert_files
from tests.unit.runtime.engines import CACHE

LAYOUT = PromptLayout(history_length=6)


@pytest.fixture(scope="session", autouse=True)
def stand_ins() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        litert_files.run_stand_ins(patch)
        yield


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("log")
    with (folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("user_id", "timestamp", "place", "behavior"))
        for user in range(12):
            for event in helpers.diary(40, seed=user):
                writer.writerow((f"u{user}", event.time.isoformat(), event.place, event.behavior))
    import_log(folder / "log.csv", "csv", folder / "data", ImportOptions(source_name="diaries"))
    return Dataset.open(folder / "data")


@pytest.fixture(scope="session")
def gguf(backbone: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "plain.gguf"
    export_gguf(ExportSource(backbone, None, dataset.candidates, LAYOUT), out, helpers.profile("f16", prune="off"))
    return out


@pytest.fixture(scope="session")
def quantized(backbone: Path, gguf: Path, dataset: Dataset) -> Path:
    out = gguf.with_name("small.gguf")
    export_gguf(ExportSource(backbone, None, dataset.candidates, LAYOUT), out, helpers.profile("q8", prune="off"))
    return out


@pytest.fixture(scope="session")
def litert(backbone: Path, gguf: Path) -> Path:
    """A stand-in: LiteRT's part is run by PyTorch."""
    manifest: Any = replace(read_manifest(gguf), context_length=CACHE, quantization="f32")
    return litert_files.stand_in(backbone, gguf, manifest, gguf.with_suffix(".tflite"), CACHE)
