"""What calibration does on users that neither training nor fitting has seen.

    python -m benchmarks.calibration demo demo.gguf out/demo/data

Takes a name, a calibrated bundle and the dataset it was trained on. Measures on test users, on natural windows (as in
fitting) and balanced ones: calibration error before and after with 95 % intervals over users, coverage and size of the
prediction sets, precision and share of the suggestions. Beside the shipped prediction sets it measures two other kinds,
with thresholds from the same validation windows, and what the decisions cost in tokens. Writes
results/calibration-NAME.json and .md.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.calibration import (
    COVERAGES,
    Calibration,
    conformal_threshold,
    conformity,
    prediction_sets,
)
from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fusion import Fusion
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.evaluation.bundles import bundle_log_probs
from edge_behavior.evaluation.calibration import (
    CalibrationMetrics,
    Coverage,
    expected_calibration_error,
    measure_calibration,
)
from edge_behavior.evaluation.calibration_tables import calibration_rows, measured_of
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.evaluation.protocols import EvaluationWindows, Protocol, WindowChoice, check_labels_match
from edge_behavior.fit.mixture import HeldOut, score_held_out
from edge_behavior.runtime.prediction import PredictOptions
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.util.markdown import markdown_table
from edge_behavior.util.numbers import number

RESULTS = Path(__file__).parent / "results"
RESAMPLES = 1000
# Windows on which tokens are counted.
COST_WINDOWS = 100
COST_PRECISION, COST_COVERAGE = 0.5, 0.9

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
# From probabilities [n, B], truths [n] and a coverage to members [n, B] by probabilities.
Sets = Callable[[Floats, Ints, float], Callable[[Floats], Bools]]


def cumulative(probs: Floats) -> Floats:
    """[n, B] probability of each candidate and all more probable ones; 0 for the first, which is always a member."""
    order = np.argsort(-probs, axis=1, kind="stable")
    summed = np.empty_like(probs)
    np.put_along_axis(summed, order, np.take_along_axis(probs, order, 1).cumsum(1), 1)
    summed[np.arange(len(probs)), order[:, 0]] = 0.0
    return summed


def sets_by_mass(probs: Floats, truth: Ints, coverage: float) -> Callable[[Floats], Bools]:
    """The most probable candidates up to a mass (adaptive prediction sets, without randomization)."""
    least = conformal_threshold(1 - cumulative(probs)[np.arange(len(truth)), truth], coverage)
    return lambda new: 1 - cumulative(new) >= least


def sets_by_group(groups: tuple[str, ...]) -> Sets:
    """A threshold per frequency group of candidates, from the windows whose truth is in the group."""
    names = np.array(groups)

    def fit(probs: Floats, truth: Ints, coverage: float) -> Callable[[Floats], Bools]:
        scores, least = conformity(probs, truth), np.zeros(len(names))
        for group in GROUPS:
            least[names == group] = conformal_threshold(scores[names[truth] == group], coverage)

        def members(new: Floats) -> Bools:
            found = new >= least
            found[np.arange(len(new)), new.argmax(1)] = True
            return np.asarray(found)

        return members

    return fit


def sets_by_probability(probs: Floats, truth: Ints, coverage: float) -> Callable[[Floats], Bools]:
    """The shipped kind: every candidate of at least some probability."""
    least = conformal_threshold(conformity(probs, truth), coverage)
    return lambda new: prediction_sets(new, least)


def compare_sets(
    fitted: Floats, fitted_truth: Ints, probs: Floats, truth: Ints, groups: tuple[str, ...]
) -> dict[str, dict[str, Coverage]]:
    """Coverage and size of three kinds of prediction sets, per wanted coverage."""
    found: dict[str, dict[str, Coverage]] = {}
    group = np.array(groups)[truth]
    kinds = {"probability": sets_by_probability, "mass": sets_by_mass, "group": sets_by_group(groups)}
    for name, kind in kinds.items():
        for coverage in COVERAGES:
            members = kind(fitted, fitted_truth, coverage)(probs)
            inside = members[np.arange(len(truth)), truth]
            parts = {g: float(inside[group == g].mean()) if (group == g).any() else None for g in GROUPS}
            size = float(members.sum(1).mean())
            found.setdefault(name, {})[f"{coverage:g}"] = Coverage(float(inside.mean()), **parts, size=size)
    return found


def error_interval(before: Floats, after: Floats, truth: Ints, users: Ints) -> list[float]:
    """95 % percentile interval over users of the change in calibration error.

    Only of the change: the error itself is biased upwards under resampling.
    """
    rng = np.random.default_rng(0)
    _, user = np.unique(users, return_inverse=True)
    rows = [np.flatnonzero(user == u) for u in range(int(user.max()) + 1)]
    drawn = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        taken = np.concatenate([rows[u] for u in rng.integers(0, len(rows), len(rows))])
        errors = [expected_calibration_error(x[taken], truth[taken]) for x in (before, after)]
        drawn[i] = errors[1] - errors[0]
    return [float(x) for x in np.percentile(drawn, [2.5, 97.5])]


def raw_scores(manifest: Manifest, model: Floats, habits: Floats) -> dict[str, Floats]:
    """Scores [n, B] of every source, as they come."""
    scores = {"model": model, "habits": habits}
    if manifest.habits is not None:
        scores["fused"] = Fusion(manifest.habits.weights, manifest.candidates.groups()).scores(model, habits)
    return scores


def tokens(predictor: Predictor, table: EventTable, targets: Ints, sources: list[str]) -> dict[str, Any]:
    """Mean tokens evaluated per prediction: those of the context and of the label trie."""
    asked = {
        "first": PredictOptions(),
        f"first, precision {COST_PRECISION:g}": PredictOptions(precision=COST_PRECISION),
        f"first, coverage {COST_COVERAGE:g}": PredictOptions(coverage=COST_COVERAGE),
        "everything": PredictOptions(exhaustive=True),
    }
    length = predictor.manifest.layout.history_length
    found: dict[str, Any] = {}
    for source in sources:
        for name, wanted in asked.items():
            spent, options = [], replace(wanted, source=source)
            for target in targets:
                event, history = table.event(int(target)), table.history(int(target), length)
                # Predict with another context first, so that the history is cached and nothing else.
                predictor.predict(history, event.time, "elsewhere", 1, options=PredictOptions(source="model"))
                spent.append(predictor.predict(history, event.time, event.place, 1, options=options))
            found.setdefault(source, {})[name] = float(np.mean([p.tokens_evaluated for p in spent]))
    return found


def measured(
    manifest: Manifest, held: HeldOut, windows: EvaluationWindows, protocol: Protocol, scores: dict[str, Floats]
) -> dict[str, Any]:
    """One protocol: what `edgeb evaluate` reports, with intervals and the other kinds of sets."""
    calibrations, groups = manifest.calibrations, manifest.candidates.groups()
    truth, users = windows.truth(protocol), windows.table.user_of(protocol.targets)
    fitted = raw_scores(manifest, held.model, held.habits)
    found: dict[str, Any] = {}
    for source, calibration in calibrations.items():
        before, after = log_softmax(scores[source]), log_softmax(calibration.scores(scores[source], groups))
        known = np.exp(log_softmax(calibration.scores(fitted[source], groups)))
        found[source] = {
            **measure_calibration(before, after, truth, groups, calibration.coverage, calibration.precision).to_dict(),
            "ece_interval": error_interval(before, after, truth, users),
            "sets": {
                kind: {level: asdict(cell) for level, cell in cells.items()}
                for kind, cells in compare_sets(known, held.truth, np.exp(after), truth, groups).items()
            },
        }
    return found


def run(bundle: Path, data: Path, per_behavior: int) -> dict[str, Any]:
    """Everything of one bundle."""
    dataset = Dataset.open(data)
    test = dataset.events("test")
    with Predictor.load(bundle, prefix_cache=False) as predictor:
        manifest = predictor.manifest
        check_labels_match(manifest.candidates, dataset.candidates, str(bundle))
        if manifest.calibration is None:
            raise SystemExit(f"{bundle} is not calibrated")
        length = manifest.layout.history_length
        windows = EvaluationWindows.draw("both", test, length, WindowChoice(per_behavior=per_behavior))
        model = bundle_log_probs(predictor, test, windows.targets)
        sources = [name for name in manifest.calibrations if name != "habits"]
        natural = windows.protocols[0].targets
        some = np.random.default_rng(0).choice(natural, min(COST_WINDOWS, len(natural)), replace=False)
        cost = tokens(predictor, test, np.sort(some), sources)
    config = HabitsConfig() if manifest.habits is None else manifest.habits.config
    scores = raw_scores(manifest, model, habit_log_probs(test, windows.targets, manifest.candidates.counts, config))
    held = score_held_out(bundle, data, config=config)
    found: dict[str, Any] = {}
    for protocol in windows.protocols:
        parts = {source: rows[windows.rows(protocol)] for source, rows in scores.items()}
        found[protocol.name] = measured(manifest, held, windows, protocol, parts)
        found[protocol.name]["users"] = len(np.unique(test.user_of(protocol.targets)))
    return {
        "bundle": {"quantization": manifest.quantization, "candidates": len(manifest.candidates)},
        "default": manifest.default_source,
        "calibration": manifest.calibration.to_dict(),
        "test": found,
        "cost": cost,
    }


def table_of(rows: list[list[str]]) -> list[str]:
    """Rows as Markdown, the first one the header."""
    head, *rest = rows
    return [*markdown_table(head, rest), ""]


def spread(pair: list[float]) -> str:
    return f"[{number(pair[0])}, {number(pair[1])}]"


def set_cell(cell: dict[str, Any]) -> str:
    groups = " / ".join(number(cell[group], 2) for group in GROUPS)
    return f"{number(cell['overall'])} ({groups}) {cell['size']:.1f}"


def markdown(name: str, found: dict[str, Any]) -> str:
    """calibration-NAME.md."""
    fitted = found["calibration"]["measured"]
    lines = [
        f"# Calibration: {name}",
        "",
        "Written by `benchmarks/calibration.py`; docs/integrate.md says what is measured.",
        "",
    ]
    lines += [
        f"{found['bundle']['candidates']} candidates, {found['bundle']['quantization']}; the bundle predicts with "
        f"**{found['default']}**. Fitted on {fitted['windows']} validation windows of {fitted['users']} users.",
        "",
    ]
    sources = [name for name in ("model", "habits", "fused") if name in found["calibration"]]
    held = [Calibration.from_dict(found["calibration"][source]) for source in sources]
    rows = [["", *sources], ["way", *(fitted[source]["way"] for source in sources)]]
    rows.append(["temperature", *(f"{c.temperature:.2f}" for c in held)])
    rows += [[f"bias {group}", *(f"{c.bias[group]:+.2f}" for c in held)] for group in GROUPS]
    rows += [[f"in the set from, {x:g}", *(f"{c.coverage[x]:.4f}" for c in held)] for x in held[0].coverage]
    rows += [[f"suggest from, {x:g}", *(number(c.precision[x]) for c in held)] for x in held[0].precision]
    lines += ["## What was fitted", "", *table_of(rows)]
    lines += ["## Validation users, cross-validated", ""]
    lines += table_of(calibration_rows({source: measured_of(fitted[source], source) for source in sources}))
    for protocol, test in found["test"].items():
        names = [field.name for field in fields(CalibrationMetrics)]
        per_source = {s: CalibrationMetrics.from_dict({n: test[s][n] for n in names}) for s in sources}
        windows = test[sources[0]]["windows"]
        lines += [f"## Test users, {protocol} windows", "", f"{windows} windows of {test['users']} users.", ""]
        rows = calibration_rows(per_source)
        for key, title in (("nll", "NLL"), ("tail_nll", "NLL of tail truths"), ("accuracy", "accuracy")):
            cells = []
            for source in sources:
                pair, digits = test[source][key], 3 if key == "accuracy" else 2
                cells.append(" → ".join(number(pair[x], digits) for x in ("before", "after")))
            rows.append([f"{title}, before → after", *cells])
        rows.insert(2, ["its change, 95 % interval over users", *(spread(test[s]["ece_interval"]) for s in sources)])
        lines += table_of(rows)
        lines += ["Kinds of prediction sets: coverage overall (head / medium / tail), mean number of candidates.", ""]
        rows = [["", *sources]]
        for level in test[sources[0]]["sets"]["mass"]:
            for kind, title in (
                ("probability", "by probability (shipped)"),
                ("mass", "by mass"),
                ("group", "per group"),
            ):
                cells = [set_cell(test[source]["sets"][kind][level]) for source in sources]
                rows.append([f"{level} {title}", *cells])
        lines += table_of(rows)
    lines += ["## Cost", "", "Tokens evaluated per prediction, history cached, context new; natural test windows.", ""]
    names = list(next(iter(found["cost"].values())))
    rows = [["", *names]]
    rows += [[source, *(f"{cost[n]:.1f}" for n in names)] for source, cost in found["cost"].items()]
    lines += table_of(rows)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the result files")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--per-behavior", type=int, default=50, help="balanced windows per behavior")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args()
    found = {
        "date": datetime.now().date().isoformat(),
        "python": platform.python_version(),
        **run(options.bundle, options.data, options.per_behavior),
    }
    path = options.out / f"calibration-{options.name}"
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = markdown(options.name, found)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
