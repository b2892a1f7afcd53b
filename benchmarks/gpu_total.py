"""Part of gpu_training.py: what a whole recipe would take, from its counts and the rates that were measured."""

from __future__ import annotations

from typing import Any

from edge_behavior.train.plan.counts import Counts
from edge_behavior.train.recipe import Recipe

# Supervised targets of one A-Tuning epoch, the paper's size.
SAMPLES = 200_000
PARTS = {
    "a_tuning": "A-Tuning",
    "a_tuning_validation": "its validation",
    "pool": "pool",
    "b_tuning": "B-Tuning",
    "b_tuning_validation": "its validation",
    "evaluation": "evaluation",
}


def composed(recipe: Recipe, counts: Counts, lines: dict[str, Any]) -> dict[str, Any] | None:
    """Seconds of every part of a run in which no stage stops early; None where a line that it needs has no rate.

    A-Tuning has `SAMPLES` targets per epoch whatever the log has; all else is as `plan` counts it on the log.
    Validation losses are taken at the rate of training, which is above what a forward pass takes.
    """
    rates = {
        "a_tuning": lines.get("a_tuning", {}).get("targets_per_second"),
        "pool": lines.get("pool", {}).get("windows_per_second"),
        "b_tuning": lines.get("b_tuning", {}).get("targets_per_second"),
    }
    if not all(rates.values()):
        return None
    stage, epochs = recipe.a_tuning, max(1.0, recipe.a_tuning.epochs)
    pairs = counts.shown["b_tuning_steps_at_most"] * recipe.b_tuning.batch_size
    work = {
        "a_tuning": (epochs * SAMPLES, "a_tuning"),
        "a_tuning_validation": (epochs * stage.evals_per_epoch * recipe.evaluation.validation_targets, "a_tuning"),
        "pool": (counts.windows["pool"], "pool"),
        "b_tuning": (pairs, "b_tuning"),
        "b_tuning_validation": (counts.windows["validation"], "pool"),
        "evaluation": (counts.windows["evaluation"], "pool"),
    }
    seconds = {part: amount / rates[line] for part, (amount, line) in work.items()}
    return {
        "samples": SAMPLES,
        "epochs": epochs,
        "amounts": {part: amount for part, (amount, _) in work.items()},
        "seconds": seconds,
        "total_hours": sum(seconds.values()) / 3600,
    }


def times_labels(lines: dict[str, Any]) -> float | None:
    """How many windows the pool pass scores in the time of one by a forward pass per label."""
    pool, labels = (lines.get(name, {}).get("windows_per_second") for name in ("pool", "labels"))
    return pool / labels if pool and labels else None


def summary(models: dict[str, Any]) -> list[str]:
    """The table of whole runs, and what it stands on."""
    rows = ["| model | " + " | ".join(PARTS.values()) + " | whole run, hours | pool: times a pass per label |"]
    rows.append("|---|" + "---:|" * (len(PARTS) + 2))
    for name, found in models.items():
        whole, times = found.get("whole_run"), times_labels(found["lines"])
        cells = ["–"] * (len(PARTS) + 1)
        if whole is not None:
            cells = [f"{whole['seconds'][part] / 3600:.2f}" for part in PARTS] + [f"**{whole['total_hours']:.2f}**"]
        rows.append(f"| {name} | " + " | ".join(cells) + f" | {'–' if times is None else f'{times:.1f}'} |")
    text = (
        f"A whole run of the recipe: {SAMPLES:,} supervised targets per epoch of A-Tuning and as many epochs as the "
        "recipe allows, validation, the pool, B-Tuning and evaluation as `edgeb train --dry-run` counts them on the "
        "simulated log, at the rates above. No stage stops early, loading and the optimizer's first steps are left out."
    )
    return [text, "\n".join(rows)]
