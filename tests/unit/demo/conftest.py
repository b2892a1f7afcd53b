"""One tiny bundle and a loaded predictor for the demo's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_behavior.runtime.predictor import Predictor
from tests import demo_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_bundle.make(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def predictor(bundle: Path) -> Iterator[Predictor]:
    with Predictor.load(bundle, threads=1, prefix_cache=False) as loaded:
        yield loaded
