"""The measurement of several bundles: all open in one process, asked in turns, window by window.

Whatever else the machine does then hits all alike, and ratios are of the same window at almost the same time. What the
machine can do at best is measured last, when no engine's threads are left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_behavior.bench.diary import Case
from edge_behavior.bench.engines.advice import choose
from edge_behavior.bench.engines.contender import SCENARIOS, Answer, Contender, window_of
from edge_behavior.bench.engines.machine import MachineLimits, measure_limits, why_no_limits
from edge_behavior.bench.engines.options import LEAST_WINDOWS, TableOptions
from edge_behavior.bench.engines.result import BundleRow, Cost, PeerRow, Table
from edge_behavior.bench.engines.rivals import RivalMaker, Rivals
from edge_behavior.bench.engines.statistics import median_of, share_of
from edge_behavior.bench.engines.windows import Window, choose_windows
from edge_behavior.bench.engines.work import Work, is_float, read_work
from edge_behavior.bench.isolated import COLD, Isolated, IsolatedRun, run_isolated
from edge_behavior.bench.measurement import Budget
from edge_behavior.bench.timing import Machine, load_average
from edge_behavior.bundle.bundle import bundle_bytes, bundle_form, read_manifest, verify_bundle
from edge_behavior.bundle.folder import holds_safetensors
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.bundle.sequence_file import ARCHITECTURES
from edge_behavior.errors import EdgebError
from edge_behavior.util.numbers import file_size
from edge_behavior.util.timebox import Clock, TimeBudget

Tick = Callable[[str], None]
# By name of the bundle, scenario and number of the window.
Answers = Mapping[str, Mapping[str, Mapping[int, Answer]]]
# Copies of a GGUF file in memory: the backend's, the bare calls', and the peers'.
_GGUF_LOADS = 3
# The least of a probability in a divergence: that of a candidate which an engine rounds to nothing.
_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class _Entry:
    """A bundle of the table, before it is opened."""

    name: str
    path: Path
    manifest: Manifest
    work: Work | None


def measure_table(
    bundles: Sequence[Path],
    options: TableOptions,
    rivals: Sequence[RivalMaker] = (),
    tick: Tick = lambda what: None,
    clock: Clock = time.monotonic,
) -> Table:
    """Measure bundles side by side.

    Args:
        bundles: In the order of the table; their hashes are checked first.
        options: What to measure.
        rivals: Make others that are timed in the same rounds.
        tick: Called with a word on what comes next, `tick_count(len(bundles), options)` times at most.
        clock: Seconds, for the budget.

    Raises:
        EdgebError: bundles that are not comparable, not there or twice there; a dataset or history that does not fit
            them; too little memory; an engine that is not installed.
    """
    notes: list[str] = []
    entries = _entries(bundles, notes)
    has_litert = any(bundle_form(entry.path) == "litert" for entry in entries)
    machine = Machine.here(options.threads, has_litert)
    reference = _reference(entries, options)
    windows = choose_windows(entries[0].manifest, options)
    _check_memory(entries)
    colds = {entry.name: _cold(entry, windows[0], options, tick) for entry in entries}
    budget = TimeBudget(options.budget, clock)
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for entry in entries:
            tick("open")
            made = Contender(entry.path, entry.manifest, options.threads, options.scoring)
            contenders[entry.name] = stack.enter_context(made)
        held = stack.enter_context(Rivals(_peers(entries, options, rivals), contenders, windows))
        notes += held.notes
        done, answers = _rounds(contenders, held, windows, budget, tick)
        engines = {name: contender.engine for name, contender in contenders.items()}
    cut = [f"{done} of {options.windows} windows"] if done < options.windows else []
    limits = _limits(options, notes, tick)
    rows = [
        _row(entry, engines[entry.name], colds[entry.name], answers, reference, windows, limits) for entry in entries
    ]
    asked = sorted(answers[reference]["all"])
    truths = [windows[i].truth for i in asked]
    known = [truth for truth in truths if truth is not None]
    _, advice = choose(rows, known if len(known) == len(truths) else None)
    first = entries[0].manifest
    return Table(
        ", ".join(dict.fromkeys(entry.manifest.architecture for entry in entries)),
        len(first.candidates),
        first.layout.name,
        first.layout.history_length,
        options.scoring,
        done,
        "dataset" if options.data is not None else "history" if options.history is not None else "synthetic",
        reference,
        rows,
        _peer_rows(held, answers[reference]),
        limits,
        advice,
        notes,
        replace(machine, load_average_after=load_average()),
        Budget(options.budget, round(budget.elapsed, 1), cut),
    )


def tick_count(bundles: int, options: TableOptions) -> int:
    """How often `measure_table` calls `tick` at most."""
    return 2 * bundles + options.windows + options.limits


def _entries(bundles: Sequence[Path], notes: list[str]) -> list[_Entry]:
    """Verified bundles that ask the same question; notes what their files do not tell.

    Raises:
        EdgebError: see `measure_table`.
    """
    manifests: dict[Path, Manifest] = {}
    # Read first: what is not comparable is refused before gigabytes are hashed.
    for path in bundles:
        if path in manifests:
            raise EdgebError(f"{path} is named twice", "name each bundle once")
        if path.is_dir() and holds_safetensors(path):
            raise EdgebError(f"{path} is a Hugging Face folder, and bench measures bundles", "leave it out")
        manifests[path] = read_manifest(path)
    first = bundles[0]
    for path, manifest in manifests.items():
        _check_comparable(first, manifests[first], path, manifest)
    names = [path.name for path in bundles]
    if len(set(names)) < len(names):
        names = list(map(str, bundles))
    return [
        _Entry(name, path, verify_bundle(path), _work(path, notes)) for name, path in zip(names, bundles, strict=True)
    ]


def _work(path: Path, notes: list[str]) -> Work | None:
    try:
        return read_work(path)
    except EdgebError as error:
        notes.append(f"what this machine could do at best is not known of a bundle: {error}")
        return None


def _check_comparable(first: Path, ours: Manifest, path: Path, theirs: Manifest) -> None:
    hint = "compare bundles of one run"
    if ours.candidates.labels != theirs.candidates.labels:
        different = sorted(set(ours.candidates.labels) ^ set(theirs.candidates.labels))
        what = f"for example '{different[0]}'" if different else "in another order"
        raise EdgebError(f"{path} has other candidates than {first}, {what}", hint)
    mine, other = ours.layout.to_dict(), theirs.layout.to_dict()
    if {ours.architecture, theirs.architecture} & set(ARCHITECTURES):
        # A sequence model has no words: what counts is what it is asked.
        mine, other = ({"history_length": m.layout.history_length, "places": m.layout.places} for m in (ours, theirs))
    if mine != other:
        name = next((name for name in mine if mine[name] != other.get(name)), "chat")
        raise EdgebError(f"{path} has another prompt layout than {first}: '{name}' differs", hint)


def _reference(entries: Sequence[_Entry], options: TableOptions) -> str:
    if options.against is None:
        return entries[0].name
    wanted = options.against
    found = [e.name for e in entries if e.path == wanted or e.path.resolve() == wanted.resolve()]
    if not found:
        raise EdgebError(
            f"--against is {wanted}, which is none of the bundles", f"name one of them, such as {entries[0].path}"
        )
    return found[0]


def _check_memory(entries: Sequence[_Entry]) -> None:
    import psutil

    needed = sum((_GGUF_LOADS if bundle_form(e.path) == "gguf" else 1) * bundle_bytes(e.path) for e in entries)
    free = psutil.virtual_memory().available
    if needed > free:
        raise EdgebError(
            f"measuring side by side needs {file_size(needed)} of memory, {file_size(free)} are free",
            "name fewer bundles, or close other programs",
        )


def _cold(entry: _Entry, window: Window, options: TableOptions, tick: Tick) -> IsolatedRun:
    """A process that opens the bundle and predicts once; once before, to bring the file into the page cache."""
    tick("memory")
    case = Case(window.history, window.when, window.place)
    spec = Isolated(COLD, str(entry.path), options.threads, options.scoring, case=case.to_dict())
    run_isolated(spec)
    return run_isolated(spec)


def _peers(entries: Sequence[_Entry], options: TableOptions, rivals: Sequence[RivalMaker]) -> list[RivalMaker]:
    """The rivals to make: those that were given, and llama.cpp's own ways where they are asked for.

    Raises:
        EdgebError: they are asked for, and there is no GGUF file.
    """
    if not options.peers:
        return list(rivals)
    from edge_behavior.bench.engines.llama_rivals import llama_rivals

    chosen = next((entry for entry in entries if bundle_form(entry.path) == "gguf"), None)
    if chosen is None:
        raise EdgebError("--compare measures llama.cpp, and no bundle is a language model's GGUF file", "name one")
    return [*llama_rivals(chosen.name, chosen.path, options), *rivals]


def _rounds(
    contenders: Mapping[str, Contender], rivals: Rivals, windows: Sequence[Window], budget: TimeBudget, tick: Tick
) -> tuple[int, dict[str, dict[str, dict[int, Answer]]]]:
    """Ask everyone, round by round, until the windows or the time are over; rounds, and the answers."""
    answers: dict[str, dict[str, dict[int, Answer]]] = {name: {s: {} for s in SCENARIOS} for name in contenders}
    names = list(contenders)
    # Not timed: the first calls allocate, and the last window is the least of all asked again soon.
    for contender in contenders.values():
        contender.turn(windows, len(windows) - 1)
    longest, last = 0.0, budget.elapsed
    for i in range(len(windows)):
        if i >= LEAST_WINDOWS and longest > budget.left:
            return i, answers
        tick("take turns")
        for name in [*names[i % len(names) :], *names[: i % len(names)]]:
            for scenario, answer in contenders[name].turn(windows, i).items():
                answers[name][scenario][window_of(scenario, i, len(windows))] = answer
        rivals.turn(i)
        now = budget.elapsed
        longest, last = max(longest, now - last), now
    return len(windows), answers


def _limits(options: TableOptions, notes: list[str], tick: Tick) -> MachineLimits | None:
    if not options.limits:
        return None
    why = why_no_limits()
    if why is not None:
        notes.append(f"what this machine can do at best was not measured: {why}")
        return None
    tick("the machine's limits")
    return measure_limits(options.threads)


def _row(
    entry: _Entry,
    engine: str,
    cold: IsolatedRun,
    answers: Answers,
    reference: str,
    windows: Sequence[Window],
    limits: MachineLimits | None,
) -> BundleRow:
    mine, theirs = answers[entry.name], answers[reference]
    asked = sorted(mine["all"])
    firsts, others = [mine["all"][i].first for i in asked], [theirs["all"][i].first for i in asked]
    truths = [windows[i].truth for i in asked]
    rights = [first == truth for first, truth in zip(firsts, truths, strict=True)]
    reference_rights = [first == truth for first, truth in zip(others, truths, strict=True)]
    known = None not in truths
    return BundleRow(
        entry.name,
        engine,
        entry.manifest.quantization,
        bundle_bytes(entry.path),
        cold.peak_rss_bytes,
        round(cold.process_ms, 1),
        share_of(sum(rights), len(rights)).rounded() if known else None,
        sum(a and not b for a, b in zip(rights, reference_rights, strict=True)) if known else None,
        sum(b and not a for a, b in zip(rights, reference_rights, strict=True)) if known else None,
        share_of(sum(a == b for a, b in zip(firsts, others, strict=True)), len(firsts)).rounded(),
        round(float(np.mean([_divergence(mine["all"][i], theirs["all"][i]) for i in asked])), 5),
        entry.work,
        {name: _cost(entry, mine[name], theirs[name], limits) for name in SCENARIOS},
        firsts,
    )


def _cost(
    entry: _Entry, mine: Mapping[int, Answer], theirs: Mapping[int, Answer], limits: MachineLimits | None
) -> Cost:
    order = sorted(mine)
    answers = [mine[i] for i in order]
    tokens, rows = (float(np.median([getattr(a, name) for a in answers])) for name in ("tokens", "rows"))
    least: tuple[float | None, float | None] = (None, None)
    if limits is not None and entry.work is not None:
        floats = is_float(entry.manifest.quantization)
        reading, multiplying = entry.work.least_ms(round(tokens), round(rows), limits, floats)
        least = round(reading, 4), round(multiplying, 4)
    return Cost(
        median_of([a.ms for a in answers]).rounded(),
        median_of([mine[i].ms / theirs[i].ms for i in order]).rounded(),
        median_of([a.bare_ms for a in answers]).rounded(),
        median_of([a.ms / a.bare_ms for a in answers]).rounded(),
        tokens,
        *least,
        [round(a.ms, 4) for a in answers],
        [round(a.bare_ms, 4) for a in answers],
    )


def _divergence(mine: Answer, theirs: Answer) -> float:
    assert mine.scores is not None
    assert theirs.scores is not None
    found, expected = np.maximum(mine.scores, _LEAST_PROBABILITY), np.maximum(theirs.scores, _LEAST_PROBABILITY)
    found, expected = found / found.sum(), expected / expected.sum()
    return float((expected * np.log(expected / found)).sum())


def _peer_rows(rivals: Rivals, reference: Mapping[str, Mapping[int, Answer]]) -> list[PeerRow]:
    """Rivals that answered, each beside the reference's prediction of the same windows."""
    rows = []
    for rival, samples in rivals.samples():
        ours = {i: answer for i, answer in reference[rival.scenario].items() if i in samples}
        if not ours:
            continue
        same = [rival.firsts[i] == answer.first for i, answer in ours.items() if i in rival.firsts]
        rows.append(
            PeerRow(
                rival.name,
                rival.on,
                rival.scenario,
                median_of([samples[i] for i in ours]).rounded(),
                median_of([samples[i] / answer.ms for i, answer in ours.items()]).rounded(),
                len(ours),
                share_of(sum(same), len(same)).rounded() if same else None,
                [round(samples[i], 4) for i in ours],
            )
        )
    return rows
