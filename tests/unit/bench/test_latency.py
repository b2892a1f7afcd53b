"""A whole measurement, its processes, its tables and its picture."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from edge_behavior.bench import latency
from edge_behavior.bench.chart import bars, draw
from edge_behavior.bench.diary import made_up
from edge_behavior.bench.isolated import run_alone
from edge_behavior.bench.latency import measure, steps
from edge_behavior.bench.report import RATIOS, TITLES, footing, grids, heading, markdown
from edge_behavior.bench.setup import PEERS, BenchOptions
from edge_behavior.bench.sustained import check_seconds, sustained, threads_sweep
from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.errors import EdgebError
from edge_behavior.util.cpus import allowed_cpus

# Two threads where the process may have two.
SWEPT = sorted({1, min(2, allowed_cpus())})
OPTIONS = BenchOptions(repeats=2, compare=True, cold_starts=1, pp=16, tg=4)


@pytest.fixture(scope="module")
def result(bundle: Path) -> dict[str, Any]:
    def alone(spec: dict[str, Any]) -> dict[str, Any]:
        parts = dict.fromkeys(latency._COLD_PARTS, 1.5)
        return {"process_ms": 9.0, **parts, "tokens": 70, "peak_rss_bytes": 50 << 20}

    ticks: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "run_alone", alone)
        found = measure(bundle, OPTIONS, ticks.append)
    assert len(ticks) == steps(OPTIONS)
    found["threads"] = threads_sweep(bundle, OPTIONS, SWEPT)
    found["sustained"] = sustained(bundle, OPTIONS, 1.0)
    return found


def test_every_scenario_is_there_in_plain_keys(result: dict[str, Any], bundle: Path) -> None:
    assert json.loads(json.dumps(result)) == result
    assert set(result["scenarios"]) == set(TITLES)
    for row in result["scenarios"].values():
        assert 0 <= row["p50_ms"] <= row["p95_ms"]
        assert len(row["samples_ms"]) == row["predictions"] > 0
        assert row["tokens_per_prediction"] >= 0
    assert result["file_bytes"] == bundle.stat().st_size
    alone = {"cold_start", "cold_start_snapshot", "session", "warm", *PEERS} - {"labels"}
    assert set(result["peak_rss_bytes"]) == alone
    assert set(result["ratios"]) == set(RATIOS)
    assert set(result["native"]) == {"pp16", "tg4"}
    assert result["machine"]["threads"] == 1


def test_ratios_are_of_medians_and_the_floors_are_paired(result: dict[str, Any]) -> None:
    p50 = {name: row["p50_ms"] for name, row in result["scenarios"].items()}
    assert result["ratios"]["completion_over_session"] == pytest.approx(p50["completion"] / p50["session"], rel=1e-3)
    for depth, row in result["floor"].items():
        session = result["scenarios"][depth]["samples_ms"]
        assert row["floor_tokens_p50"] == row["tokens_p50"]
        # Of two values, the median is their mean.
        expected = sum(a / b for a, b in zip(session, row["floor_samples_ms"], strict=True)) / 2
        assert row["over_floor"] == pytest.approx(expected, rel=2e-2)


def test_tables(result: dict[str, Any]) -> None:
    page = markdown(result)
    for text in (*TITLES.values(), *RATIOS.values(), heading(result), footing(result), "pp16", "last slice"):
        assert text in page
    for grid in grids(result):
        assert all(len(row) == len(grid.heads) for row in grid.rows)
    plain = {k: v for k, v in result.items() if k not in ("floor", "native", "ratios", "threads", "sustained")}
    assert len(grids(plain)) == 1


def test_chart(result: dict[str, Any], tmp_path: Path) -> None:
    found = bars(result)
    assert [p50 for _, p50, _, _ in found] == sorted(p50 for _, p50, _, _ in found)
    assert len(found) == len(TITLES) - 3 + 1
    assert len({color for *_, color in found}) == 3
    draw(result, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(EdgebError, match="cannot write"):
        draw(result, tmp_path / "no" / "c.png")


def test_sustained(result: dict[str, Any]) -> None:
    found = result["sustained"]
    assert found["seconds"] >= 1.0
    assert len(found["slices"]) == 10
    assert sum(s["predictions"] for s in found["slices"]) == found["predictions"]
    first, last = found["slices"][0]["p50_ms"], found["slices"][-1]["p50_ms"]
    if first and last:
        assert found["drift"] == pytest.approx(last / first, rel=1e-3)
    for seconds in (0.2, -1.0, float("nan")):
        with pytest.raises(EdgebError, match="--sustained"):
            check_seconds(seconds)


def test_threads(result: dict[str, Any]) -> None:
    assert {n: row["predictions"] for n, row in result["threads"].items()} == {str(n): 2 for n in SWEPT}


def test_cold_start_in_a_process_of_its_own(bundle: Path, tmp_path: Path) -> None:
    question = made_up(read_manifest(bundle).candidates, 6, 2).question(0)
    spec = {"scenario": "cold", "bundle": str(bundle), "threads": 1, "scoring": "exact", "question": question.to_dict()}
    first = run_alone({**spec, "snapshots": None})
    run_alone({**spec, "snapshots": str(tmp_path)})
    assert len(list(tmp_path.iterdir())) == 1
    restored = run_alone({**spec, "snapshots": str(tmp_path)})
    for found in (first, restored):
        parts = sum(found[part] for part in latency._COLD_PARTS)
        assert 0 < parts < found["process_ms"]
        assert 10 << 20 < found["peak_rss_bytes"] < 1 << 30
    assert first["prefix_ms"] < 1
    assert restored["tokens"] < first["tokens"]


def test_memory_of_one_scenario(bundle: Path) -> None:
    spec = {"scenario": "completion", "bundle": str(bundle), "threads": 1, "scoring": "exact", "history": None}
    assert run_alone(spec)["peak_rss_bytes"] > 10 << 20
    with pytest.raises(EdgebError, match="in a process of its own failed"):
        run_alone({**spec, "bundle": str(bundle) + "x"})


def test_a_new_llama_cpp_is_tried_before_the_clock_runs(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the child the trial would be part of the cold start, and what it says would be lost."""
    order: list[str] = []

    def clock() -> float:
        order.append("clock")
        return perf_counter()

    monkeypatch.setattr("edge_behavior.runtime.llama.build.verdict", lambda: order.append("verdict"))
    monkeypatch.setattr("edge_behavior.bench.isolated.perf_counter", clock)
    run_alone({"scenario": "completion", "bundle": str(bundle), "threads": 1, "scoring": "exact", "history": None})
    assert order[:2] == ["verdict", "clock"]
