"""Summaries and what is known of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.bench.timing import Machine, Sample, Timing, default_threads, peak_rss_bytes, percentile
from edge_behavior.runtime.predictor import SMALL_BUNDLE


def test_summary() -> None:
    times = [5.0, 1.0, 2.0, 4.0, 3.0]
    samples = [Sample(t, tokens, t - 0.5) for t, tokens in zip(times, (10, 20, 20, 20, 30), strict=True)]
    found = Timing.of(samples).to_dict()
    assert found["p50_ms"] == 3.0
    assert found["p95_ms"] == pytest.approx(np.percentile(times, 95))
    assert found["tokens_per_prediction"] == 20
    assert found["predictions"] == 5
    assert found["overhead_ms"] == {"p50": 0.5, "p95": 0.5}
    assert found["samples_ms"] == times
    assert not {"overhead_ms", "parts_ms"} & set(Timing.of([Sample(1.0, 1)]).to_dict())
    assert Timing.of([Sample(1.0, 1)], {"open_ms": 0.5}).to_dict()["parts_ms"] == {"open_ms": 0.5}
    assert percentile([1.0, 2.0], 50) == 1.5


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system says it")
def test_a_child_reports_its_own_peak_and_not_its_parents() -> None:
    ballast = np.ones(40_000_000)
    mine = peak_rss_bytes()
    assert mine > ballast.nbytes
    code = "from edge_behavior.bench.timing import peak_rss_bytes; print(peak_rss_bytes())"
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 1 << 20 < child < ballast.nbytes


def test_machine() -> None:
    found = Machine.here(3).to_dict()
    assert found["threads"] == 3
    assert found["llama_cpp_python"]
    assert found["memory_bytes"] > 1 << 28


def test_threads_as_the_runtime_chooses_them(tmp_path: Path) -> None:
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    small.write_bytes(b"x")
    with large.open("wb") as file:
        file.truncate(SMALL_BUNDLE)
    assert default_threads(small) == 1
    assert 1 <= default_threads(large) <= (os.cpu_count() or 1)
