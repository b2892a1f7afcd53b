"""`edgeb bench` on a LiteRT file: the same scenarios; peers and lower bound are llama.cpp's and are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_behavior.bench.latency import measure
from edge_behavior.bench.options import BenchOptions
from edge_behavior.bench.report import footing
from edge_behavior.errors import EdgebError
from tests.command import invoked
from tests.unit.runtime.engines import IN_TORCH, LITERT, engine_of


def test_what_needs_llama_is_refused(tmp_path: Path) -> None:
    engine_of(IN_TORCH, tmp_path)
    with pytest.raises(EdgebError, match=r"is a LiteRT file, and --compare measures llama.cpp .pass a bundle"):
        invoked("bench", tmp_path / "bundle.tflite", "--compare")


def test_a_session_costs_what_is_new(tmp_path: Path) -> None:
    engine_of(LITERT, tmp_path)
    options = BenchOptions(repeats=2, threads=1, cold_starts=1)
    found = measure(tmp_path / "bundle.tflite", options)
    assert {"cold_start", "cold_start_snapshot", "warm", "session", "prefix_restore"} <= set(found.scenarios)
    tokens = {name: timing.tokens_per_prediction for name, timing in found.scenarios.items()}
    assert tokens["session"] < tokens["warm"] < tokens["cold_start"]
    assert "; ai-edge-litert 2." in footing(found)
