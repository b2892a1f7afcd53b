"""A small simulated log for the systems of a comparison."""

from __future__ import annotations

import pytest

from edge_behavior.data.dataset import Dataset
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ImportOptions
from edge_behavior.data.simulator.simulator import simulate


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("baselines")
    simulate(30, 6, 1, folder / "log.csv")
    import_log(folder / "log.csv", "csv", folder / "data", ImportOptions(source_name="synth"))
    return Dataset.open(folder / "data")
