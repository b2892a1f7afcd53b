"""The whole measurement of a bundle: scenarios in turns, cold starts and memory in processes of their own.

Per prediction, not per token. All that is compared is timed in one process, round by round, so that whatever else the
machine does hits all alike. Knows nothing of tables and charts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_behavior.bench.isolated import COLD, Isolated, IsolatedRun, run_isolated
from edge_behavior.bench.measurement import BoundForm, Budget, Comparison, LowerBound, Measurement, Speed
from edge_behavior.bench.options import CYCLE, DEPTHS, BenchOptions
from edge_behavior.bench.peers import PEERS, CompletionPeer, LabelPeer
from edge_behavior.bench.report import TITLES
from edge_behavior.bench.scenarios import Scenario, npu_work
from edge_behavior.bench.setup import Setup
from edge_behavior.bench.timing import Machine, Sample, Timing, load_average, percentile
from edge_behavior.bundle.bundle import bundle_form, verify_bundle
from edge_behavior.runtime.accelerator import chosen_accelerator, require_timed
from edge_behavior.util.timebox import Clock, Cycles, Pace, TimeBudget

Tick = Callable[[str], None]
Samples = Mapping[str, Sequence[Sample]]
COLD_STARTS = ("cold_start", "cold_start_snapshot")
# Share of the time that repeated cold starts may take.
_COLD_SHARE = 0.15
# And counting an NPU's calls.
_NPU_SHARE = 0.1
_COLD_PARTS = ("import_ms", "verify_ms", "open_ms", "prefix_ms", "first_ms")


def measure(
    bundle: Path, options: BenchOptions, tick: Tick = lambda what: None, clock: Clock = time.monotonic
) -> Measurement:
    """Measure a bundle, in the time that the options allow.

    Args:
        bundle: The file; its hashes are checked first.
        options: What to measure; other numbers of threads and sustained runs are `sustained`'s.
        tick: Called with a word on what comes next, `tick_count(options)` times at most.
        clock: Seconds, for the budget.

    Raises:
        EdgebError: not a bundle, a history that does not fit it, too little memory, or an emulated accelerator.
    """
    require_timed(options.accelerator)
    pace = Pace(TimeBudget(options.budget, clock))
    accelerator = chosen_accelerator(bundle, options.accelerator)
    manifest = verify_bundle(bundle)
    machine = Machine.here(options.threads, accelerator is not None)
    with Setup(bundle, options) as setup:
        setup.check_memory()
        cold = _cold_starts(setup, bundle, options, pace, tick)
        tick("open")
        asked = setup.all(pace)
        start = max(run.process_ms for runs in cold.values() for run in runs) / 1000
        alone = _measured_alone(asked)
        # A process of its own starts, and runs a cycle of rounds.
        cycles = Cycles(pace, 2 * start * len(alone), setup.slow)
        samples = take_turns(asked, setup.rounds, tick, cycles.go_on)
        taken = len(samples["session"])
        if taken < options.repeats:
            pace.cut(f"{taken} of {options.repeats} predictions per scenario")
        peaks = {name: max(run.peak_rss_bytes for run in runs) for name, runs in cold.items()}
        peaks |= _peaks(bundle, options, {name: start + _cycle_seconds(samples, name) for name in alone}, pace, tick)
        npu = npu_work(bundle, setup.diary, options, _NPU_SHARE * max(0.0, pace.budget.seconds))
        nodes, static_tokens = len(setup.encoder.trie), len(setup.encoder.static_ids)
    scenarios = {name: _cold_timing(runs) for name, runs in cold.items()}
    scenarios |= {name: Timing.of(taken) for name, taken in samples.items() if not _is_bound(name, options)}
    return Measurement(
        bundle.name,
        manifest.architecture,
        manifest.quantization,
        len(manifest.candidates),
        nodes,
        manifest.layout.name,
        static_tokens,
        options.scoring,
        options.anchor_every,
        bundle.stat().st_size,
        peaks,
        scenarios,
        replace(machine, load_average_after=load_average()),
        _comparison(samples, scenarios, options) if options.compare else None,
        Budget(options.budget, round(pace.budget.elapsed, 1), pace.cuts),
        accelerator=accelerator,
        npu=npu,
    )


def tick_count(options: BenchOptions) -> int:
    """How often `measure` calls `tick` at most."""
    peers = [name for name in PEERS if options.compare and name != "labels"]
    return options.rounds + 1 + len(COLD_STARTS) * options.cold_starts + 1 + 2 + len(peers)


def take_turns(
    scenarios: Sequence[Scenario],
    rounds: int,
    tick: Tick = lambda what: None,
    go_on: Callable[[int], bool] = lambda cycle: True,
) -> dict[str, list[Sample]]:
    """Ask every scenario once per round, each round beginning with another one; samples by scenario name.

    Args:
        rounds: Most rounds.
        go_on: Asked before every cycle of rounds, with its number: whether there is time for it.
    """
    samples: dict[str, list[Sample]] = {}
    for i in range(rounds):
        if i % CYCLE == 0 and not go_on(i // CYCLE):
            break
        tick("take turns")
        first = i % len(scenarios)
        for scenario in [*scenarios[first:], *scenarios[:first]]:
            for name, sample in scenario.turn(i).items():
                samples.setdefault(name, []).append(sample)
    return samples


def _cold_starts(
    setup: Setup, bundle: Path, options: BenchOptions, pace: Pace, tick: Tick
) -> dict[str, list[IsolatedRun]]:
    """Cold starts by kind, taking turns; one of each in any case. A sequence model has no static prompt to restore."""
    kinds = COLD_STARTS[:1] if bundle_form(bundle) == "sequence" else COLD_STARTS
    runs: dict[str, list[IsolatedRun]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory(prefix="edgeb-bench-") as folder:
        case, accelerator = setup.diary.case(0).to_dict(), options.accelerator
        without = Isolated(COLD, str(bundle), options.threads, options.scoring, case, accelerator=accelerator)
        specs = dict(zip(COLD_STARTS, (without, replace(without, snapshots=folder)), strict=True))
        tick("cold start")
        # Writes the snapshot that the others find, and brings the file into the page cache.
        run_isolated(specs[kinds[-1]])
        reserved = (1 - _COLD_SHARE) * pace.budget.left
        for done in range(options.cold_starts):
            each = sum(taken[-1].process_ms for taken in runs.values() if taken) / 1000
            if done and not pace.has_room(each, reserved):
                pace.cut(f"{done} of {options.cold_starts} cold starts of each kind")
                break
            for name in kinds:
                tick("cold start")
                runs[name].append(run_isolated(specs[name]))
    return runs


def _cold_timing(runs: Sequence[IsolatedRun]) -> Timing:
    parts = {part: percentile([run.parts_ms[part] for run in runs], 50) for part in _COLD_PARTS}
    return Timing.of([Sample(run.process_ms, run.tokens) for run in runs], parts)


def _peaks(bundle: Path, options: BenchOptions, seconds: Mapping[str, float], pace: Pace, tick: Tick) -> dict[str, int]:
    """Peak memory by scenario, bytes: of those in `seconds`, which says what each about takes, that fit the time."""
    history = None if options.history is None else options.history.to_dict()
    found, left_out = {}, []
    for name, expected in seconds.items():
        if not pace.has_room(expected):
            left_out.append(TITLES[name])
            continue
        tick("memory")
        accelerator = options.accelerator
        spec = Isolated(name, str(bundle), options.threads, options.scoring, history=history, accelerator=accelerator)
        found[name] = run_isolated(spec).peak_rss_bytes
    if left_out:
        pace.cut(f"peak memory of {', '.join(left_out)}")
    return found


def _measured_alone(scenarios: Sequence[Scenario]) -> list[str]:
    """Scenarios whose memory is measured: not `labels`, which takes long and needs what `labels_cached` needs."""
    peers = [s.name for s in scenarios if isinstance(s, CompletionPeer | LabelPeer) and s.name != "labels"]
    return ["session", "warm", *peers]


def _cycle_seconds(samples: Samples, name: str) -> float:
    """What a cycle of rounds of one scenario took at most."""
    mine = DEPTHS if name == "session" else (name,)
    return sum(max(sample.ms for sample in samples[each]) for each in mine) / 1000


def _comparison(samples: Samples, scenarios: Mapping[str, Timing], options: BenchOptions) -> Comparison:
    bounds = {depth: _lower_bound(samples, depth) for depth in DEPTHS}
    p50 = {name: timing.p50_ms for name, timing in scenarios.items()}
    # How much longer others take than a session's prediction, and what a restored prefix saves.
    ratios = {f"{peer}_over_session": p50[peer] / p50["session"] for peer in PEERS if peer in p50}
    ratios["session_over_floor"] = bounds["session"].forms["floor"].over
    ratios["prefix_evaluate_over_restore"] = p50["prefix_evaluate"] / p50["prefix_restore"]
    return Comparison(
        bounds,
        {name: _speed(samples[name]) for name in _speeds(options) if name in samples},
        {name: round(value, 3) for name, value in ratios.items()},
    )


def _speeds(options: BenchOptions) -> tuple[str, str]:
    return f"pp{options.pp}", f"tg{options.tg}"


def _is_bound(name: str, options: BenchOptions) -> bool:
    return name.startswith("floor") or name in _speeds(options)


def _lower_bound(samples: Samples, depth: str) -> LowerBound:
    session, suffix = samples[depth], depth.removeprefix("session")
    forms = {}
    for name in ("floor", "floor_one_row", "floor_same_calls"):
        taken = samples[f"{name}{suffix}"]
        forms[name] = BoundForm(
            percentile([s.ms for s in taken], 50),
            percentile([a.ms / b.ms for a, b in zip(session, taken, strict=True)], 50),
            [round(s.ms, 3) for s in taken],
        )
    return LowerBound(
        percentile([s.tokens for s in session], 50),
        percentile([s.ms for s in session], 50),
        forms,
        percentile([s.tokens for s in samples[f"floor{suffix}"]], 50),
    )


def _speed(samples: Sequence[Sample]) -> Speed:
    speeds = [s.tokens / s.ms * 1000 for s in samples]
    mean, deviation = round(float(np.mean(speeds)), 2), round(float(np.std(speeds)), 2)
    return Speed(mean, deviation, len(speeds), [round(s, 2) for s in speeds])
