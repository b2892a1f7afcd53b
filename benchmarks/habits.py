"""What a user's habits add to a bundle's model: habits alone, model alone, both fused.

    python -m benchmarks.habits --case foursquare-nyc nyc.gguf data/nyc 30 --case demo demo.gguf data/synth 100

A case is a name, a bundle, the dataset it was trained on, and the number of windows per behavior of the balanced
protocol. All choices (the counter's settings, the weights, how many windows they need, whether they should depend on
how much was seen of the user) are made on validation users; the results are from test users. Writes
results/habits.json and results/habits.md. Scoring the model takes most of the time: --cache keeps its scores.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.fusion import SOURCES
from edge_behavior.core.habits import HabitCounter, HabitsConfig
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import natural_windows
from edge_behavior.evaluation.bundles import bundle_log_probs
from edge_behavior.evaluation.evaluate import counter_metrics, metrics_by_protocol
from edge_behavior.evaluation.habits import accuracy_by_history, habit_log_probs
from edge_behavior.evaluation.metrics import Metrics
from edge_behavior.evaluation.protocols import EvaluationWindows, WindowChoice, check_labels_match
from edge_behavior.evaluation.results import Results
from edge_behavior.evaluation.tables import results_markdown
from edge_behavior.fit.mixture import FOLDS, L2, PER_USER, HeldOut, cross_validate, fit_weights
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.util.numbers import difference, number

RESULTS = Path(__file__).parent / "results"
# One setting at a time, the others at their defaults.
GRID: Mapping[str, tuple[float, ...]] = {
    "hour_bucket": (1, 2, 3, 4, 6, 24),
    "half_life": (0, 30, 50, 100, 200, 400),
    "k_all": (10, 40, 80, 160, 320),
    "k_hour": (5, 10, 20, 40, 80),
    "k_place": (1, 2, 4, 8, 16),
    "k_place_hour": (1, 2, 4, 8, 16),
}
FIT_WINDOWS = (100, 200, 300, 500, 1000)
# Events after which the evidence about a user has half of its full weight.
HALF_EVIDENCE = 50.0
RESAMPLES = 2000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def scored(bundle: Path, table: EventTable, targets: Ints, cache: Path | None) -> Floats:
    """The model's log-probabilities [n, B], from `cache` if it holds those of this bundle at these windows."""
    with Predictor.load(bundle, prefix_cache=False) as predictor:
        model = predictor.manifest.tensors_sha256
        if cache is not None and cache.is_file():
            with np.load(cache) as kept:
                if str(kept["model"]) == model and np.array_equal(kept["targets"], targets):
                    return np.asarray(kept["rows"])
        rows = bundle_log_probs(predictor, table, targets)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(cache, rows=rows, targets=targets, model=model)
    return rows


def losses(scores: Floats, truth: Ints) -> tuple[Floats, Floats]:
    """Whether right, and the loss in nats, per window."""
    own = log_softmax(scores)[np.arange(len(truth)), truth]
    return (scores.argmax(1) == truth).astype(np.float64), -own


def paired(ours: Floats, theirs: Floats, users: Ints) -> list[float]:
    """Mean difference per window and its 95 % interval over users."""
    _, user = np.unique(users, return_inverse=True)
    n = int(user.max()) + 1
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    drawn = (weights @ np.bincount(user, ours - theirs)) / (weights @ np.bincount(user))
    return [float((ours - theirs).mean()), *(float(x) for x in np.percentile(drawn, [2.5, 97.5]))]


def settings(table: EventTable, targets: Ints, prior: Ints) -> list[dict[str, Any]]:
    """Accuracy and loss of the counter alone for every value of the grid."""
    truth, rows = table.behavior[targets].astype(np.int64), []
    for name, values in GRID.items():
        for value in values:
            config = replace(HabitsConfig(), **{name: type(getattr(HabitsConfig(), name))(value)})
            right, loss = losses(habit_log_probs(table, targets, prior, config), truth)
            rows.append({"setting": name, "value": value, "accuracy": right.mean(), "nll": loss.mean()})
    return rows


def with_evidence(held: HeldOut, events: Ints) -> dict[str, Any]:
    """What weights that depend on the number of events seen of the user gain over constant ones, cross-validated.

    The weights of a window are w + v·n/(n + 50), the same for all groups, as are the constant ones here.
    """
    from scipy.optimize import minimize

    seen = (events / (events + HALF_EVIDENCE))[:, None]
    features = np.stack([held.model, held.habits, held.model * seen, held.habits * seen], -1)
    truth = held.truth
    codes, user = np.unique(held.users, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(codes)) % FOLDS)[user]

    def fitted(x: Floats, y: Ints) -> Floats:
        start = np.array([1.0, 0.0, 0.0, 0.0][: x.shape[-1]])
        observed = x[np.arange(len(y)), y].mean(0)

        def loss(w: Floats) -> tuple[float, Floats]:
            log_p = log_softmax(x @ w)
            value = -log_p[np.arange(len(y)), y].mean() + L2 * ((w - start) ** 2).sum()
            slope = np.einsum("nb,nbk->k", np.exp(log_p), x) / len(y) - observed
            return float(value), slope + 2 * L2 * (w - start)

        return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B").x)

    found = {}
    for name, width in (("constant", 2), ("evidence", 4)):
        scores = np.empty_like(held.model)
        for k in range(FOLDS):
            test = fold == k
            weights = fitted(features[~test][..., :width], truth[~test])
            scores[test] = features[test][..., :width] @ weights
        found[name] = losses(scores, truth)
    return {
        "accuracy": paired(found["evidence"][0], found["constant"][0], held.users),
        "nll": paired(found["evidence"][1], found["constant"][1], held.users),
    }


def measure(name: str, bundle: Path, data: Path, per_behavior: int, cache: Path | None) -> dict[str, Any]:
    """One case."""
    dataset = Dataset.open(data)
    with Predictor.load(bundle, prefix_cache=False) as predictor:
        manifest = predictor.manifest
    check_labels_match(manifest.candidates, dataset.candidates, str(bundle))
    length, prior = manifest.layout.history_length, np.asarray(manifest.candidates.counts)
    groups = manifest.candidates.groups()

    def kept(split: str) -> Path | None:
        return None if cache is None else cache / f"{name}-{split}.npz"

    table = dataset.events("validation")
    targets = natural_windows(table, length, PER_USER)
    grid = settings(table, natural_windows(table, length, 3 * PER_USER), prior)
    users, truth = table.user_of(targets), table.behavior[targets].astype(np.int64)
    model = scored(bundle, table, targets, kept("validation"))
    held = HeldOut(model, habit_log_probs(table, targets, prior), truth, users, groups)
    evidence = with_evidence(held, targets - table.user_offsets[users])
    validation, fusion = cross_validate(held), fit_weights(held)

    test = dataset.events("test")
    windows = EvaluationWindows.draw("both", test, length, WindowChoice(per_behavior=per_behavior))
    test_model = scored(bundle, test, windows.targets, kept("test"))
    test_habits = habit_log_probs(test, windows.targets, prior)
    scores = {"model": test_model, "habits": test_habits, "fused": fusion.scores(test_model, test_habits)}
    systems: Results = {
        **counter_metrics(dataset, windows),
        **{f"bundle_{source}": metrics_by_protocol(windows, scores[source]) for source in SOURCES},
    }
    found: dict[str, Any] = {}
    for protocol in windows.protocols:
        at, who = windows.rows(protocol), test.user_of(protocol.targets)
        own = {source: losses(rows[at], windows.truth(protocol)) for source, rows in scores.items()}
        found[protocol.name] = {
            "rows": {name: held[protocol.name].to_dict() for name, held in systems.items()},
            "paired": {
                f"fused - {other}": {
                    "accuracy": paired(own["fused"][0], own[other][0], who),
                    "nll": paired(own["fused"][1], own[other][1], who),
                }
                for other in ("model", "habits")
            },
            "by_history": [
                held.to_dict()
                for held in accuracy_by_history(test, protocol.targets, {n: s[at] for n, s in scores.items()}, length)
            ],
        }

    sizes = []
    natural, answer = windows.rows(windows.protocols[0]), windows.truth(windows.protocols[0])
    for count in (*(n for n in FIT_WINDOWS if n < len(held)), len(held)):
        draws = []
        for seed in range(5 if count < len(held) else 1):
            taken = np.random.default_rng(seed).permutation(len(held)) < count
            weights = fit_weights(held.take(taken))
            draws.append([x.mean() for x in losses(weights.scores(test_model[natural], test_habits[natural]), answer)])
        accuracy, nll = np.mean(draws, axis=0)
        sizes.append({"windows": count, "accuracy": accuracy, "nll": nll})

    return {
        "candidates": len(groups),
        "settings": grid,
        "evidence": evidence,
        "validation": validation.to_dict(),
        "default": validation.best,
        "weights": fusion.to_dict(),
        "fit_windows": sizes,
        "test": found,
        "cost": cost(test, prior),
    }


def cost(table: EventTable, prior: Ints) -> dict[str, float]:
    """Microseconds of the counter's two calls after the table's longest user, best of 20 rounds."""
    user = int(np.diff(table.user_offsets).argmax())
    mine = range(int(table.user_offsets[user]), int(table.user_offsets[user + 1]))
    events = [(int(table.behavior[i]), table.time[i].item(), table.places[table.place[i]]) for i in mine]
    counter, observing, asking = HabitCounter(prior), [], []
    for _ in range(20):
        start = time.perf_counter()
        for event in events:
            counter.observe(*event)
        observing.append((time.perf_counter() - start) / len(events))
        start = time.perf_counter()
        for _, when, place in events[:200]:
            counter.log_probs(when, place)
        asking.append((time.perf_counter() - start) / min(len(events), 200))
    saved = len(json.dumps(counter.to_dict()))
    return {
        "events": counter.events,
        "observe_us": 1e6 * min(observing),
        "log_probs_us": 1e6 * min(asking),
        "saved_bytes": saved,
    }


def signed(triple: list[float], digits: int = 3) -> str:
    """A difference with its interval."""
    if digits == 3:
        return f"{difference(triple[0])} [{difference(triple[1])}, {difference(triple[2])}]"
    return f"{triple[0]:+.{digits}f} [{triple[1]:+.{digits}f}, {triple[2]:+.{digits}f}]"


def markdown(results: dict[str, Any]) -> str:
    """habits.md."""
    config = ", ".join(f"`{k}` {v:g}" for k, v in results["config"].items())
    lines = [
        "# Habits: counter, model, both",
        "",
        f"Written by `benchmarks/habits.py`. Counter settings: {config}.",
        "",
    ]
    for name, case in results["cases"].items():
        lines += [f"## {name}", "", f"{case['candidates']} candidates.", ""]
        for protocol, found in case["test"].items():
            systems = {name: {protocol: Metrics.from_dict(held)} for name, held in found["rows"].items()}
            lines += [results_markdown(systems, protocol)]
            for pair, gain in found["paired"].items():
                lines += [f"- {pair}: accuracy {signed(gain['accuracy'])}, NLL {signed(gain['nll'], 2)}"]
            lines += [
                "",
                "| events seen | windows | users | model | habits | fused |",
                "|---|---:|---:|---:|---:|---:|",
            ]
            for row in found["by_history"]:
                seen = f"{row['from']}–{row['to'] - 1}" if row["to"] else f"{row['from']}+"
                cells = " | ".join(number(row["accuracy"][s]) for s in SOURCES)
                lines += [f"| {seen} | {row['windows']} | {row['users']} | {cells} |"]
            lines += [""]
        held = case["validation"]
        lines += [
            f"Chosen on {held['windows']} validation windows of {held['users']} users ({held['folds']}-fold "
            "cross-validation over users): "
            + ", ".join(f"{s} {number(held[s]['accuracy'])} (NLL {held[s]['nll']:.2f})" for s in SOURCES)
            + f". Default: **{case['default']}**.",
            "",
            "| group | model | habits | bias |",
            "|---|---:|---:|---:|",
            *(
                f"| {group} | {w['model']:.2f} | {w['habits']:.2f} | {w['bias']:+.2f} |"
                for group, w in case["weights"].items()
            ),
            "",
            "Weights that depend on the number of events seen, against constant ones, cross-validated: accuracy "
            f"{signed(case['evidence']['accuracy'])}, NLL {signed(case['evidence']['nll'])}.",
            "",
            "| windows fitted on | fused accuracy (test, natural) | NLL |",
            "|---:|---:|---:|",
            *(f"| {row['windows']} | {number(row['accuracy'])} | {row['nll']:.3f} |" for row in case["fit_windows"]),
            "",
            "| setting of the counter | " + "value: accuracy / NLL of the counter alone on validation users |",
            "|---|---|",
        ]
        for setting in GRID:
            values = [
                f"{row['value']:g}: {number(row['accuracy'])} / {row['nll']:.3f}"
                for row in case["settings"]
                if row["setting"] == setting
            ]
            lines += [f"| `{setting}` | {'; '.join(values)} |"]
        c = case["cost"]
        lines += [
            "",
            f"After {c['events']:,} events `observe` took {c['observe_us']:.1f} µs, `log_probs` "
            f"{c['log_probs_us']:.0f} µs; the saved counter has {c['saved_bytes'] / 1000:.0f} kB.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=4, action="append", required=True, metavar=("NAME", "BUNDLE", "DATA", "N"))
    parser.add_argument("--cache", type=Path, help="folder that keeps the model's scores between runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of habits.json and habits.md")
    options = parser.parse_args()
    cases = {n: measure(n, Path(b), Path(d), int(k), options.cache) for n, b, d, k in options.case}
    results = {
        "date": datetime.now().date().isoformat(),
        "python": platform.python_version(),
        "config": asdict(HabitsConfig()),
        "l2": L2,
        "cases": cases,
    }
    text = markdown(results)
    for case in cases.values():
        for found in case["test"].values():
            for row in found["rows"].values():
                # Most of the file otherwise; `edgeb evaluate --json` has it.
                del row["per_behavior"]
    (options.out / "habits.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "habits.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
