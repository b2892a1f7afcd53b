"""An export of a trained run, timed: seconds per step, windows compared, and how true the shown time left was.

    python -m benchmarks.export_speed runs/mine --stage a_tuning --out benchmarks/results/export-smollm2

With `--trade`, instead: what it costs that held-out windows come in stretches of consecutive ones of a user. Neither
run nor bundle is needed, a model made of counts takes the place of one:

    python -m benchmarks.export_speed data/nyc --trade --seeds 40 --out benchmarks/results/held_out_stretches

With `--engines`, a bundle scores the same windows with one engine of all threads and with an engine of one thread per
core, taking turns:

    python -m benchmarks.export_speed mine.gguf --engines --out benchmarks/results/engines
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bench.diary import Case, synthetic_diary
from edge_behavior.bench.timing import Machine
from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.core.fusion import Fusion
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import eligible, natural_stretches
from edge_behavior.evaluation.calibration import expected_calibration_error
from edge_behavior.evaluation.counters import transition_counts
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.profiles import load_profile
from edge_behavior.export.run_source import run_source
from edge_behavior.fit.calibrate import fit_scores
from edge_behavior.fit.mixture import PER_USER, HeldOut, fit_weights
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.runtime.side_by_side import side_by_side
from edge_behavior.util.cpus import physical_cores
from edge_behavior.util.markdown import markdown_table

LENGTH = 20
# (windows, windows per stretch). With SmolLM2's prompts of 317 tokens and 721 tokens of trie, 380 windows in stretches
# of four cost what 300 single ones do.
DESIGNS = ((150, 1), (150, 4), (190, 4), (300, 1), (300, 4), (380, 4), (300, 10), (410, 10), (300, 20))

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def timed_export(run: Path, stage: str, quant: str, bundle: Path | None) -> dict[str, Any]:
    """Export a stage of a run with the default profile; the report, and the whole time."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edgeb-export-speed-") as folder:
        source = run_source(run, stage)
        out = bundle or Path(folder) / "bundle.gguf"
        report = export_gguf(source, out, load_profile(flags={"quant": quant}), force=True).to_dict()
    report["bundle"] = Path(report["bundle"]).name
    taken = time.perf_counter() - started
    return {"seconds_in_all": round(taken, 1), "report": report, "machine": Machine.here(physical_cores()).to_dict()}


def _pruning(pruning: dict[str, Any]) -> str:
    return "Vocabulary pruned." if pruning["pruned"] else f"Vocabulary not pruned: {pruning['reason']}."


def _recovery(recovery: dict[str, Any] | None) -> str:
    if recovery is None:
        return ""
    kept = ", ".join(recovery["kept"]) or f"nothing, {recovery['skipped'] or 'it did not help'}"
    return f"Kept at 8 bits for the tail: {kept}."


def export_page(found: dict[str, Any]) -> list[str]:
    """The export as Markdown."""
    report, total = found["report"], found["seconds_in_all"]
    parity, seconds = report["parity"], report["seconds"]
    rows = [[step, f"{taken:.1f}"] for step, taken in seconds.items()]
    stages = [[name, str(row["windows"]), f"{row['flips']:.1%}", f"{row['mean_kl']:.2g}"]
              for name, row in parity["stages"].items()]  # fmt: skip
    estimates = [[f"{at:.0f}", f"{said:.0f}", f"{said / report['estimates'][-1][0] - 1:+.0%}"]
                 for at, said in report["estimates"]]  # fmt: skip
    machine = found["machine"]
    habits = report["habits"]
    return [
        f"# Export of {report['architecture']}, {report['parameters'] / 1e6:.0f} million weights, to "
        f"{report['quantization']}",
        "",
        f"{machine['processor']}, {machine['threads']} threads; {total:.0f} s in all.",
        "",
        *markdown_table(["step", "seconds"], rows),
        "",
        f"{_pruning(report['pruning'])} {_recovery(parity['recovery'])}".strip(),
        "",
        f"Compared on {parity['windows']} windows:",
        "",
        *markdown_table(["after", "windows", "flips", "KL"], stages),
        "",
        f"Habits and calibration: {habits['measured']['windows']} windows of {habits['measured']['users']} users."
        if habits["fitted"]
        else f"Habits: {habits['reason']}.",
        "",
        "The time shown at the first windows of each step and at its end, in seconds since the comparisons began:",
        "",
        *markdown_table(["after", "expected in all", "error"], estimates),
    ]


def trade(data: Path, seeds: int) -> dict[str, Any]:
    """What fits on some windows lose, on all other windows, to the fit on all of them: mean over the seeds."""
    dataset = Dataset.open(data)
    table, counts = dataset.events("validation"), np.array(dataset.candidates.counts, dtype=float)
    targets = eligible(table, LENGTH)
    train = dataset.events("train")
    transitions = transition_counts(train, train.user_offsets, len(counts))
    held = HeldOut(
        _window_model(table, targets, transitions, counts),
        habit_log_probs(table, targets, counts),
        table.behavior[targets].astype(np.int64),
        table.user_of(targets),
        dataset.candidates.groups(),
    )
    best = _losses(fit_weights(held), held, held)
    rows = []
    for windows, stretch in DESIGNS:
        found = []
        for seed in range(seeds):
            drawn = np.concatenate(natural_stretches(table, LENGTH, stretch, PER_USER, windows, seed))
            mine = np.isin(targets, drawn)
            users = len(np.unique(held.users[mine]))
            lost = _losses(fit_weights(held.take(mine)), held.take(mine), held.take(~mine))
            found.append((users, *(x - y for x, y in zip(lost, best, strict=True))))
        users, nll, calibrated, ece = np.mean(found, axis=0)
        error = float(np.std([row[2] for row in found], ddof=1) / np.sqrt(seeds))
        rows.append(
            {"windows": windows, "stretch": stretch, "users": round(users, 1), "nll_lost": nll,
             "calibrated_nll_lost": calibrated, "standard_error": error, "ece_change": ece}
        )  # fmt: skip
    return {"seeds": seeds, "best_nll": best[0], "best_ece": best[2], "designs": rows}


def _window_model(table: EventTable, targets: Ints, transitions: Floats, counts: Floats) -> Floats:
    """[n, B] log-probabilities from the last events and the training users' transitions: it sees what a model sees."""
    prior = (counts + 1) / (counts + 1).sum()
    follows = transitions + 20 * prior
    found = 0.35 * (follows / follows.sum(1, keepdims=True))[table.behavior[targets - 1]] + 0.05 * prior
    index = targets[:, None] - np.arange(LENGTH, 0, -1)
    same = table.place[index] == table.place[targets][:, None]
    for weight, chosen in ((0.35, same), (0.25, np.ones_like(same))):
        seen: Floats = np.zeros_like(found)
        np.add.at(seen, (np.repeat(np.arange(len(targets)), LENGTH), table.behavior[index].ravel()), chosen.ravel())
        seen += prior
        found += weight * seen / seen.sum(1, keepdims=True)
    log_probs: Floats = np.log(found)
    return log_probs


def _losses(fusion: Fusion, fitted: HeldOut, on: HeldOut) -> tuple[float, float, float]:
    """Of a fusion and the temperature fitted with it: mean loss before and after calibration, calibration error."""
    raw = fusion.scores(fitted.model, fitted.habits)
    calibration = fit_scores(raw, fitted.truth, fitted.groups, biased=False)
    scores = fusion.scores(on.model, on.habits)
    before, after = log_softmax(scores), log_softmax(calibration.scores(scores, on.groups))
    rows = np.arange(len(on))
    ece = expected_calibration_error(after, on.truth)
    return float(-before[rows, on.truth].mean()), float(-after[rows, on.truth].mean()), ece


def trade_page(found: dict[str, Any]) -> list[str]:
    """The trade as Markdown."""
    rows = [
        [str(row["windows"]), str(row["stretch"]), f"{row['users']:.0f}", f"{row['nll_lost']:.4f}",
         f"{row['calibrated_nll_lost']:.4f} ± {row['standard_error']:.4f}", f"{row['ece_change']:+.4f}"]
        for row in found["designs"]
    ]  # fmt: skip
    return [
        "# What stretches of consecutive windows cost the fits",
        "",
        f"Fusion weights and a temperature, fitted on some validation windows and measured on all others; mean of "
        f"{found['seeds']} draws. Lost is against the fit on all windows: {found['best_nll']:.3f} nats, calibration "
        f"error {found['best_ece']:.3f}. The model is a stand-in from counts that sees the last {LENGTH} events.",
        "",
        *markdown_table(
            ["windows", "per stretch", "users", "nats lost", "calibrated, ± standard error", "calibration error"], rows
        ),
    ]


def engines(bundle: Path, windows: int = 4, rounds: int = 3) -> dict[str, Any]:
    """Seconds per window, whole tries, with one engine and with one per core; synthetic windows."""
    manifest, threads = read_manifest(bundle), physical_cores()
    length, places = manifest.layout.history_length, manifest.layout.places
    diary = synthetic_diary(manifest.candidates, length, windows * rounds, places=places)
    cases = [diary.case(i) for i in range(windows * rounds)]
    taken: dict[str, list[float]] = {"one engine": [], "side by side": []}
    with ExitStack() as stack:

        def opened(count: int) -> Predictor:
            return stack.enter_context(Predictor.load(bundle, threads=count, verify=False, prefix_cache=False))

        sets = {"one engine": [opened(threads)], "side by side": [opened(1) for _ in range(threads)]}

        def score(predictor: Predictor, case: Case) -> Floats:
            return predictor.log_probs(case.history, case.when, case.place)

        for i in range(rounds):
            some = cases[i * windows : (i + 1) * windows]
            for name in sorted(sets, reverse=bool(i % 2)):
                started = time.perf_counter()
                for _ in side_by_side(sets[name], some, score):
                    pass
                taken[name].append((time.perf_counter() - started) / windows)
    return {"bundle": bundle.name, "quantization": manifest.quantization, "seconds_per_window": taken,
            "machine": Machine.here(threads).to_dict()}  # fmt: skip


def engines_page(found: dict[str, Any]) -> list[str]:
    """The engines as Markdown."""
    medians = {name: float(np.median(taken)) for name, taken in found["seconds_per_window"].items()}
    machine = found["machine"]
    rows = [[name, f"{seconds:.2f}"] for name, seconds in medians.items()]
    return [
        f"# One engine of {machine['threads']} threads, or {machine['threads']} engines of one",
        "",
        f"{found['bundle']}, {found['quantization']}, whole label tries; {machine['processor']}. One engine takes "
        f"{medians['one engine'] / medians['side by side']:.2f} times as long.",
        "",
        *markdown_table(["", "seconds per window"], rows),
    ]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a run folder; with --trade a dataset, --engines a bundle")
    parser.add_argument("--stage", default="b_tuning")
    parser.add_argument("--quant", default="q4")
    parser.add_argument("--bundle", type=Path, help="keep the bundle here")
    parser.add_argument("--trade", action="store_true")
    parser.add_argument("--engines", action="store_true")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.md")
    wanted = parser.parse_args()
    if wanted.trade:
        found = trade(wanted.source, wanted.seeds)
        page = trade_page(found)
    elif wanted.engines:
        found = engines(wanted.source)
        page = engines_page(found)
    else:
        found = timed_export(wanted.source, wanted.stage, wanted.quant, wanted.bundle)
        page = export_page(found)
    wanted.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    wanted.out.with_suffix(".md").write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
