"""What the population's table adds beneath a user's habits: counters only, minutes on one core.

    python -m benchmarks.population --case foursquare-nyc data/nyc 20 --case india data/india 10 --case simulator \\
        data/synth 20

A case is a name, a dataset and the length of the history that a window needs. The table's settings and the strengths of
habits are chosen on validation users; accuracy and loss are from windows of test users, at most 20 of each. Writes
results/population.json and results/population.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import smoothed_shares
from edge_behavior.core.habits import HabitCounter, HabitsConfig
from edge_behavior.core.population import LEVELS, PopulationConfig
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import natural_windows
from edge_behavior.evaluation.counters import transition_counts
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.fit.population import count_population, population_log_probs
from edge_behavior.fit.strengths import fit_strengths
from edge_behavior.util.numbers import number

RESULTS = Path(__file__).parent / "results"
PER_USER, MOST_WINDOWS = 20, 2000
# One setting at a time, the others at their defaults.
GRID: Mapping[str, tuple[float, ...]] = {
    "min_users": (1, 2, 3, 5, 10, 20),
    "per_user": (1, 2, 4, 16, 1000),
    "hour_bucket": (1, 2, 3, 4, 6),
    **{f"k_{level}": (16, 64, 128, 256, 512, 1024, 1e6) for level in LEVELS},
}
# Events that the training shares weigh beneath Markov-1.
MARKOV_STRENGTH = 16.0
KNOWN = (0, 1, 2, 5, 10)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def measured(log_probs: Floats, truth: Ints) -> dict[str, float]:
    """Accuracy, and mean loss in nats."""
    own = log_probs[np.arange(len(truth)), truth]
    return {"accuracy": float((log_probs.argmax(1) == truth).mean()), "nll": float(-own.mean())}


def markov(train: EventTable, events: EventTable, targets: Ints) -> Floats:
    """Log-probabilities after the last behavior, backed off to the training shares."""
    counts = transition_counts(train, train.user_offsets, len(events.candidates))
    prior = smoothed_shares(events.candidates.counts)
    smoothed = (counts + MARKOV_STRENGTH * prior) / (counts.sum(1, keepdims=True) + MARKOV_STRENGTH)
    return np.asarray(np.log(smoothed[events.behavior[targets - 1]]))


def after(events: EventTable, targets: Ints, known: int, new: Any) -> Floats:
    """Log-probabilities of a counter that saw only the last `known` events before each target."""
    rows = []
    for target in targets:
        counter: HabitCounter = new()
        for index in range(int(target) - known, int(target)):
            event = events.event(index)
            counter.observe(int(events.behavior[index]), event.time, event.place)
        asked = events.event(int(target))
        rows.append(counter.log_probs(asked.time, asked.place))
    return np.stack(rows)


def windows(events: EventTable, length: int) -> Ints:
    return natural_windows(events, length, PER_USER, MOST_WINDOWS)


def measure(data: Path, length: int) -> dict[str, Any]:
    """One case."""
    dataset = Dataset.open(data)
    train, validation, test = (dataset.events(split) for split in ("train", "validation", "test"))
    counts, places = dataset.candidates.counts, dataset.has_places
    counted = count_population(train, places=places)
    table = counted.table

    chosen = windows(validation, length)
    truth = validation.behavior[chosen].astype(np.int64)
    grid = []
    for name, values in GRID.items():
        for value in values:
            whole = isinstance(getattr(PopulationConfig(), name), int)
            changed: dict[str, Any] = {name: int(value) if whole else value}
            other = replace(PopulationConfig(), **changed)
            found = population_log_probs(count_population(train, other, places).table, validation, chosen)
            grid.append({"setting": name, "value": value, **measured(found, truth)})
    alone = fit_strengths(validation, chosen, counts, places)
    above = fit_strengths(validation, chosen, counts, places, table)

    targets = windows(test, length)
    truth = test.behavior[targets].astype(np.int64)
    shares = np.tile(np.log(smoothed_shares(counts)), (len(targets), 1))
    systems = {
        "training shares": shares,
        "Markov-1": markov(train, test, targets),
        "habits, default strengths": habit_log_probs(test, targets, counts, None, places),
        "habits, fitted strengths": habit_log_probs(test, targets, counts, alone, places),
        "population": population_log_probs(table, test, targets),
        "habits over population, default strengths": habit_log_probs(test, targets, counts, None, places, table),
        "habits over population, fitted strengths": habit_log_probs(test, targets, counts, above, places, table),
    }
    cold = {}
    for known in KNOWN:
        some = targets[:: max(1, len(targets) // 500)]
        answer = test.behavior[some].astype(np.int64)
        cold[str(known)] = {
            "habits": measured(after(test, some, known, lambda: HabitCounter(counts, alone, places)), answer),
            "population": measured(population_log_probs(table, test, some, known), answer),
            "both": measured(after(test, some, known, lambda: HabitCounter(counts, above, places, table)), answer),
        }
    return {
        "candidates": len(counts),
        "train": {"users": counted.users, "events": len(train)},
        "table": {"contexts": table.contexts, "entries": len(table.codes), "bytes": len(table.to_bytes())},
        "windows": len(targets),
        "users": len(np.unique(test.user_of(targets))),
        "systems": {name: measured(found, truth) for name, found in systems.items()},
        "strengths": {"alone": asdict(alone), "above": asdict(above)},
        "cold": cold,
        "settings": grid,
    }


def markdown(results: dict[str, Any]) -> str:
    """population.md."""
    config = ", ".join(f"`{name}` {value:g}" for name, value in results["config"].items())
    cases: dict[str, Any] = results["cases"]
    lines = [
        "# The population beneath a user's habits",
        "",
        f"Written by `benchmarks/population.py`; counters only. Settings of the table: {config}.",
        "Accuracy / NLL in nats on windows of test users; what is fitted is fitted on validation users.",
        "",
        "| counter | " + " | ".join(cases) + " |",
        "|---|" + "---:|" * len(cases),
    ]
    systems = list(next(iter(cases.values()))["systems"])
    for system in systems:
        cells = (
            f"{number(c['systems'][system]['accuracy'])} / {c['systems'][system]['nll']:.3f}" for c in cases.values()
        )
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    figures: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
        ("windows (users)", lambda c: f"{c['windows']:,} ({c['users']:,})"),
        ("training users", lambda c: f"{c['train']['users']:,}"),
        ("contexts / counts in the table", lambda c: f"{c['table']['contexts']:,} / {c['table']['entries']:,}"),
        ("size of the table", lambda c: f"{c['table']['bytes'] / 1000:.0f} kB"),
        ("strengths alone: all, hour, place, place and hour", lambda c: _strengths(c["strengths"]["alone"])),
        ("strengths over the population", lambda c: _strengths(c["strengths"]["above"])),
    )
    for label, of in figures:
        lines.append(f"| {label} | " + " | ".join(of(case) for case in cases.values()) + " |")
    lines += [
        "",
        "## New users: only the last few events before the target are known",
        "",
        "Accuracy of habits / population / habits over population (fitted strengths).",
        "",
        "| events known | " + " | ".join(cases) + " |",
        "|---:|" + "---:|" * len(cases),
    ]
    for known in KNOWN:
        cells = (
            " / ".join(number(case["cold"][str(known)][name]["accuracy"]) for name in ("habits", "population", "both"))
            for case in cases.values()
        )
        lines.append(f"| {known} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Settings of the table",
        "",
        "NLL of the population alone on validation users, one setting changed.",
        "",
    ]
    lines += ["| setting | " + " | ".join(cases) + " |", "|---|" + "---|" * len(cases)]
    for setting in GRID:
        cells = (
            "; ".join(f"{row['value']:g}: {row['nll']:.3f}" for row in case["settings"] if row["setting"] == setting)
            for case in cases.values()
        )
        lines.append(f"| `{setting}` | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _strengths(config: dict[str, float]) -> str:
    values = (config[f"k_{level}"] for level in ("all", "hour", "place", "place_hour"))
    return ", ".join("∞" if value >= 1e6 else f"{value:g}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=3, action="append", required=True, metavar=("NAME", "DATA", "LENGTH"))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of population.json and population.md")
    options = parser.parse_args()
    cases = {name: measure(Path(data), int(length)) for name, data, length in options.case}
    results = {"config": PopulationConfig().to_dict(), "habits": HabitsConfig().to_dict(), "cases": cases}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "population.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "population.md").write_text(markdown(results), encoding="utf-8")


if __name__ == "__main__":
    main()
