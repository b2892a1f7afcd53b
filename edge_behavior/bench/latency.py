"""The whole measurement of a bundle: scenarios in turns, cold starts and memory in processes of their own, one result.

Per prediction, not per token. All that is compared is timed in one process, round by round, so that what the machine
does meanwhile hits all alike. Knows nothing of tables and pictures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.bench.isolated import run_alone
from edge_behavior.bench.scenarios import DEPTHS, Scenario
from edge_behavior.bench.setup import PEERS, BenchOptions, Setup
from edge_behavior.bench.timing import Sample, machine, percentile, summary
from edge_behavior.bundle.bundle import verify_bundle

Tick = Callable[[str], None]
_COLD_PARTS = ("import_ms", "verify_ms", "open_ms", "prefix_ms", "first_ms")


def measure(bundle: Path, options: BenchOptions, tick: Tick = lambda what: None) -> dict[str, Any]:
    """Measure a bundle.

    Args:
        bundle: The file; its hashes are checked first.
        options: What to measure.
        tick: Called with a word on what comes next, `steps(options)` times in all.

    Returns:
        A JSON-ready record. `scenarios` maps names to `p50_ms`, `p95_ms`, `mean_ms`, `tokens_per_prediction` (mean),
        `predictions`, `samples_ms`, for edgeb's own `overhead_ms` (outside the engine), for cold starts `parts_ms`.
        With `compare`, `floor` (per session scenario: the floor in three forms and the session's ratio to each),
        `native` (pp and tg in tokens per second) and `ratios`. `peak_rss_bytes` maps scenarios to the peak of a process
        that ran nothing else. `machine` says where.

    Raises:
        EdgebError: not a bundle, a history that does not fit it, or too little memory.
    """
    manifest = verify_bundle(bundle)
    where = machine(options.threads)
    with Setup(bundle, options) as setup:
        setup.check_memory()
        alone = _alone(setup, bundle, options, tick)
        tick("open")
        samples = take_turns(setup.all(), options.rounds, tick)
        size = len(setup.encoder.trie)
        static_tokens = len(setup.encoder.static_ids)
    ended = machine(options.threads)
    scenarios = {name: summary(taken) for name, taken in samples.items()}
    result: dict[str, Any] = {
        "bundle": bundle.name,
        "architecture": manifest.architecture,
        "quantization": manifest.quantization,
        "candidates": len(manifest.candidates),
        "trie_nodes": size,
        "layout": manifest.layout.name,
        "static_tokens": static_tokens,
        "scoring": options.scoring,
        "anchor_every": options.anchor_every,
        "file_bytes": bundle.stat().st_size,
        "peak_rss_bytes": alone["peak_rss_bytes"],
        "scenarios": {**alone["cold"], **{k: v for k, v in scenarios.items() if not _is_floor(k, options)}},
    }
    if options.compare:
        result["floor"] = {depth: _floor_row(samples, depth) for depth in DEPTHS}
        result["native"] = {name: _speed(samples[name]) for name in _speeds(options)}
        result["ratios"] = ratios(result)
    result["machine"] = {**where, "load_average_after": ended["load_average"]}
    return result


def steps(options: BenchOptions) -> int:
    """How often `measure` calls `tick`."""
    return options.rounds + 1 + 2 * options.cold_starts + 1 + len(_measured_alone(options))


def take_turns(scenarios: Sequence[Scenario], rounds: int, tick: Tick = lambda what: None) -> dict[str, list[Sample]]:
    """Ask every scenario once per round, each round beginning with another one; samples by scenario name."""
    samples: dict[str, list[Sample]] = {}
    for i in range(rounds):
        tick("take turns")
        first = i % len(scenarios)
        for scenario in [*scenarios[first:], *scenarios[:first]]:
            for name, sample in scenario.turn(i).items():
                samples.setdefault(name, []).append(sample)
    return samples


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """How much longer others take than a session's prediction (medians), and what a restored prefix saves."""
    p50 = {name: row["p50_ms"] for name, row in result["scenarios"].items()}
    found = {f"{peer}_over_session": p50[peer] / p50["session"] for peer in PEERS}
    found["session_over_floor"] = result["floor"]["session"]["over_floor"]
    found["prefix_evaluate_over_restore"] = p50["prefix_evaluate"] / p50["prefix_restore"]
    return {name: round(value, 3) for name, value in found.items()}


def _alone(setup: Setup, bundle: Path, options: BenchOptions, tick: Tick) -> dict[str, Any]:
    """Cold starts, and peak memory per scenario."""
    spec = {"bundle": str(bundle), "threads": options.threads, "scoring": options.scoring}
    question = setup.diary.question(0).to_dict()
    cold: dict[str, Any] = {}
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="edgeb-bench-") as folder:
        ask = {"scenario": "cold", **spec, "question": question}
        tick("cold start")
        # Writes the snapshot that the others find, and brings the file into the page cache.
        run_alone({**ask, "snapshots": folder})
        runs: dict[str, list[dict[str, Any]]] = {"cold_start": [], "cold_start_snapshot": []}
        for _ in range(options.cold_starts):
            for name, snapshots in (("cold_start", None), ("cold_start_snapshot", folder)):
                tick("cold start")
                runs[name].append(run_alone({**ask, "snapshots": snapshots}))
    for name, done in runs.items():
        cold[name] = summary([Sample(run["process_ms"], run["tokens"]) for run in done])
        cold[name]["parts_ms"] = {part: percentile([run[part] for run in done], 50) for part in _COLD_PARTS}
        peaks[name] = max(run["peak_rss_bytes"] for run in done)
    history = None if options.history is None else str(options.history)
    for name in _measured_alone(options):
        tick("memory")
        peaks[name] = run_alone({"scenario": name, **spec, "history": history})["peak_rss_bytes"]
    return {"cold": cold, "peak_rss_bytes": peaks}


def _measured_alone(options: BenchOptions) -> tuple[str, ...]:
    """Scenarios whose memory is measured: not `labels`, which takes long and needs what `labels_cached` needs."""
    return ("session", "warm", *(name for name in PEERS if options.compare and name != "labels"))


def _speeds(options: BenchOptions) -> tuple[str, str]:
    return f"pp{options.pp}", f"tg{options.tg}"


def _is_floor(name: str, options: BenchOptions) -> bool:
    return name.startswith("floor") or name in _speeds(options)


def _floor_row(samples: Mapping[str, Sequence[Sample]], depth: str) -> dict[str, Any]:
    """A session scenario beside its floors. Ratios are medians over the rounds of session time over floor time."""
    session, suffix = samples[depth], depth.removeprefix("session")
    row: dict[str, Any] = {
        "tokens_p50": percentile([s.tokens for s in session], 50),
        "session_p50_ms": percentile([s.ms for s in session], 50),
    }
    for form in ("floor", "floor_one_row", "floor_same_calls"):
        taken = samples[f"{form}{suffix}"]
        row[f"{form}_p50_ms"] = percentile([s.ms for s in taken], 50)
        row[f"over_{form}"] = percentile([a.ms / b.ms for a, b in zip(session, taken, strict=True)], 50)
        row[f"{form}_samples_ms"] = [round(s.ms, 3) for s in taken]
    row["floor_tokens_p50"] = percentile([s.tokens for s in samples[f"floor{suffix}"]], 50)
    return row


def _speed(samples: Sequence[Sample]) -> dict[str, Any]:
    speeds = [s.tokens / s.ms * 1000 for s in samples]
    return {
        "tokens_per_second": round(float(np.mean(speeds)), 2),
        "deviation": round(float(np.std(speeds)), 2),
        "runs": len(speeds),
        "samples": [round(s, 2) for s in speeds],
    }
