"""The log that several files train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import edgeb_here
from tests.integration.small import LOG


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated dataset. Nobody writes into it."""
    out = tmp_path_factory.mktemp("log") / "data"
    edgeb_here(*LOG, "--out", out)
    return out
