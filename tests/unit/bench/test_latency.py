"""A whole measurement, its processes, its tables and its picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from edge_behavior.bench import latency
from edge_behavior.bench.chart import bars, draw
from edge_behavior.bench.diary import synthetic_diary
from edge_behavior.bench.isolated import COLD, Isolated, IsolatedRun, run_isolated
from edge_behavior.bench.latency import measure, tick_count
from edge_behavior.bench.lower_bound import LowerBoundScenario, SpeedScenario
from edge_behavior.bench.measurement import Measurement
from edge_behavior.bench.options import BenchOptions, HistoryFile
from edge_behavior.bench.peers import PEERS, CompletionPeer, LabelPeer
from edge_behavior.bench.report import RATIOS, TITLES, cuts, footing, grids, heading, markdown
from edge_behavior.bench.scenarios import SessionScenario, WarmScenario
from edge_behavior.bench.sustained import check_seconds, sustained, threads_sweep
from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.errors import EdgebError
from edge_behavior.util.cpus import allowed_cpus
from tests import helpers

# Two threads where the process may have two.
SWEPT = sorted({1, min(2, allowed_cpus())})
HISTORY = "timestamp,place,behavior,user_id\n" + "".join(
    f"{1_710_000_000 + 3600 * i},home,{helpers.LABELS[i % 2]},{user}\n" for i in range(4) for user in ("ada", "bob")
)
OPTIONS = BenchOptions(repeats=2, compare=True, cold_starts=1, pp=16, tg=4)


@pytest.fixture(scope="module")
def measured(bundle: Path) -> Measurement:
    def alone(spec: Isolated) -> IsolatedRun:
        return IsolatedRun(9.0, 50 << 20, 70, dict.fromkeys(latency._COLD_PARTS, 1.5))

    ticks: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "run_isolated", alone)
        found = measure(bundle, OPTIONS, ticks.append)
    assert len(ticks) == tick_count(OPTIONS)
    return replace(found, threads=threads_sweep(bundle, OPTIONS, SWEPT), sustained=sustained(bundle, OPTIONS, 1.0))


@pytest.fixture(scope="module")
def result(measured: Measurement) -> dict[str, Any]:
    return measured.to_dict()


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


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Measurement]:
    """Measures by a clock on which every turn of a scenario and every process takes what the test says."""

    def run(bundle: Path, budget: float, turn: float, process: float, label: float = 0.0) -> Measurement:
        now = [0.0]

        def alone(spec: Isolated) -> IsolatedRun:
            now[0] += process
            return IsolatedRun(1000 * process, 50 << 20, 70, dict.fromkeys(latency._COLD_PARTS, 1.5))

        def wait(kind: Any) -> None:
            whole = kind.turn

            def turn_(self: Any, i: int) -> Any:
                found = whole(self, i)
                now[0] += turn * len(found)
                return found

            monkeypatch.setattr(kind, "turn", turn_)

        for kind in (SessionScenario, WarmScenario, CompletionPeer, LabelPeer, LowerBoundScenario, SpeedScenario):
            wait(kind)
        made = LabelPeer.__init__

        def init(self: LabelPeer, *arguments: Any) -> None:
            made(self, *arguments)
            self.seconds = label if self.name == "labels" else turn

        monkeypatch.setattr(LabelPeer, "__init__", init)
        monkeypatch.setattr(latency, "run_isolated", alone)
        return measure(bundle, replace(OPTIONS, repeats=30, cold_starts=3, budget=budget), clock=lambda: now[0])

    return run


def test_a_budget_is_kept_and_what_it_cuts_is_said(slow: Callable[..., Measurement], bundle: Path) -> None:
    found = slow(bundle, budget=300.0, turn=0.5, process=2.0, label=400.0)
    budget = found.budget
    assert budget is not None
    assert 200.0 < budget.spent <= 300.0
    taken = found.scenarios["session"].predictions
    assert 2 <= taken < 30
    assert budget.cut == [
        "(c) every label on its own: a prediction takes about 400 s",
        f"{taken} of 30 predictions per scenario",
    ]
    assert "labels" not in found.scenarios
    assert found.comparison is not None
    assert "labels_over_session" not in found.comparison.ratios
    assert json.loads(json.dumps(found.to_dict()))["budget"]["cut"] == budget.cut
    page = markdown(found)
    assert "cut to 300 s" in page
    assert f"- {budget.cut[0]}" in page
    assert len(bars(found)) == len(TITLES) - 3


def test_fewer_predictions_label_by_label(slow: Callable[..., Measurement], bundle: Path) -> None:
    found = slow(bundle, budget=300.0, turn=0.1, process=1.0, label=40.0)
    assert found.budget is not None
    assert "(c) every label on its own: 2 of 3 predictions, each about 40 s" in found.budget.cut
    assert found.scenarios["labels"].predictions == 2


def test_a_large_bundle_is_measured_as_far_as_the_time_goes(slow: Callable[..., Measurement], bundle: Path) -> None:
    found = slow(bundle, budget=300.0, turn=6.0, process=40.0, label=2000.0)
    assert found.budget is not None
    cut = " / ".join(found.budget.cut)
    assert "1 of 3 cold starts of each kind" in cut
    assert "peak memory of" in cut
    assert found.scenarios["session"].predictions == 2


def test_nothing_is_cut_where_there_is_time(measured: Measurement) -> None:
    assert measured.budget is not None
    assert list(measured.budget.cut) == []
    assert cuts(measured) == []
    with pytest.raises(EdgebError, match="--budget is 3"):
        replace(OPTIONS, budget=3)


def test_ratios_are_of_medians_and_the_floors_are_paired(result: dict[str, Any]) -> None:
    p50 = {name: row["p50_ms"] for name, row in result["scenarios"].items()}
    assert result["ratios"]["completion_over_session"] == pytest.approx(p50["completion"] / p50["session"], rel=1e-3)
    for depth, row in result["floor"].items():
        session = result["scenarios"][depth]["samples_ms"]
        assert row["floor_tokens_p50"] == row["tokens_p50"]
        # Of two values, the median is their mean.
        expected = sum(a / b for a, b in zip(session, row["floor_samples_ms"], strict=True)) / 2
        assert row["over_floor"] == pytest.approx(expected, rel=2e-2)


def test_tables(measured: Measurement) -> None:
    page = markdown(measured)
    for text in (*TITLES.values(), *RATIOS.values(), heading(measured), footing(measured), "pp16", "last slice"):
        assert text in page
    for grid in grids(measured):
        assert all(len(row) == len(grid.heads) for row in grid.rows)
    plain = replace(measured, comparison=None, threads=None, sustained=None)
    assert len(grids(plain)) == 1
    assert not {"floor", "native", "ratios", "threads", "sustained"} & set(plain.to_dict())


def test_chart(measured: Measurement, tmp_path: Path) -> None:
    found = bars(measured)
    assert [p50 for _, p50, _, _ in found] == sorted(p50 for _, p50, _, _ in found)
    assert len(found) == len(TITLES) - 3 + 1
    assert len({color for *_, color in found}) == 3
    draw(measured, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(EdgebError, match="cannot write"):
        draw(measured, tmp_path / "no" / "c.png")


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
    case = synthetic_diary(read_manifest(bundle).candidates, 6, 2).case(0)
    spec = Isolated(COLD, str(bundle), 1, "exact", case=case.to_dict())
    first = run_isolated(spec)
    run_isolated(replace(spec, snapshots=str(tmp_path)))
    assert len(list(tmp_path.iterdir())) == 1
    restored = run_isolated(replace(spec, snapshots=str(tmp_path)))
    for found in (first, restored):
        assert tuple(found.parts_ms) == latency._COLD_PARTS
        assert 0 < sum(found.parts_ms.values()) < found.process_ms
        assert 10 << 20 < found.peak_rss_bytes < 1 << 30
    assert first.parts_ms["prefix_ms"] < 1
    assert restored.tokens < first.tokens


def test_memory_of_one_scenario(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text(HISTORY)
    history = HistoryFile(tmp_path / "h.csv", "ada", "Europe/Berlin", "s")
    spec = Isolated("completion", str(bundle), 1, "exact", history=history.to_dict())
    assert run_isolated(spec).peak_rss_bytes > 10 << 20
    with pytest.raises(EdgebError, match="in a process of its own failed"):
        run_isolated(replace(spec, bundle=str(bundle) + "x"))


def test_a_new_llama_cpp_is_tried_before_the_clock_runs(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the child the trial would be part of the cold start, and what it says would be lost."""
    order: list[str] = []

    def clock() -> float:
        order.append("clock")
        return perf_counter()

    monkeypatch.setattr("edge_behavior.runtime.llama.build.verdict", lambda: order.append("verdict"))
    monkeypatch.setattr("edge_behavior.bench.isolated.perf_counter", clock)
    run_isolated(Isolated("completion", str(bundle), 1, "exact"))
    assert order[:2] == ["verdict", "clock"]
