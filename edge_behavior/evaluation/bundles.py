"""Evaluate a bundle as the phone runs it, on the same windows and in the same terms as a run.

The model sees the layout's last L events; habits count everything the user did before the target. Scores are calibrated
as `predict` calibrates them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.calibration import Calibration, measure
from edge_behavior.core.fusion import Fusion
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.evaluation.protocols import (
    Score,
    Targets,
    WindowChoice,
    accuracy_by_history,
    check_dataset_fits,
    evaluate_all,
    habit_log_probs,
    protocols,
)
from edge_behavior.runtime.engine import calibrations_of
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.util.progress import progress_bar

# Windows on which masked and exact scoring are compared.
MASKED_WINDOWS = 200


def evaluate_bundle(path: Path, data: Path, protocol: str, split: str, choice: WindowChoice) -> dict[str, Any]:
    """Metrics of a bundle's model, of the user's habits and of both fused, on the same windows.

    Returns:
        Per protocol the metrics of the bundle's default source, which `source` names; the other sources as
        `bundle_model`, `bundle_habits` and `bundle_fused` and the counters under `baselines`; `by_history` per
        protocol, see `accuracy_by_history`; `masked_differs`: the share of `windows` whose best candidate under
        masked scoring is not that under exact scoring; `calibration` per protocol and source, see
        `calibration.measure`, None for a bundle without one; `dataset`: path, fingerprint, and `own`, whether its
        training counts are those of the bundle, which carries no fingerprint. A bundle without fusion weights has no
        `bundle_fused`.

    Raises:
        EdgebError: not a bundle, or a dataset with another candidate set or without the bundle's places.
    """
    dataset = Dataset.open(data)
    table = dataset.events(split)
    with Predictor.load(path) as predictor:
        manifest = predictor.manifest
        check_dataset_fits(manifest.candidates, manifest.layout, dataset, str(path))
        length = manifest.layout.history_length
        chosen = protocols(protocol, table, length, choice)
        union = np.unique(np.concatenate([p.targets for p in chosen]))
        model = bundle_log_probs(predictor, table, union)
        masked = _masked_differs(predictor, table, union, model, choice.seed)
    default, raw = _sources(manifest, table, union, model)
    calibrations, groups = calibrations_of(manifest), manifest.candidates.groups()
    scores = {source: calibrations.get(source, Calibration()).scores(rows, groups) for source, rows in raw.items()}

    def scorer(rows: NDArray[np.float64]) -> Score:
        return lambda targets: rows[np.searchsorted(union, targets)]

    scorers = {source: scorer(rows) for source, rows in scores.items()}
    by_history = {
        p.name: accuracy_by_history(table, p.targets, {n: score(p.targets) for n, score in scorers.items()}, length)
        for p in chosen
    }
    measured = {
        p.name: {
            source: _measured(calibration, raw[source], scores[source], table, union, p.targets)
            for source, calibration in calibrations.items()
        }
        for p in chosen
    }
    named = {"model" if source == default else f"bundle_{source}": score for source, score in scorers.items()}
    found = evaluate_all(dataset, table, protocol, length, choice, named)
    calibrated = measured if calibrations else None
    own = manifest.candidates.counts == dataset.candidates.counts
    return {
        "source": default,
        **found,
        "by_history": by_history,
        "masked_differs": masked,
        "calibration": calibrated,
        "dataset": {"path": str(dataset.path), "fingerprint": dataset.fingerprint, "own": own},
    }


def bundle_log_probs(
    predictor: Predictor, table: EventTable, targets: Targets, scoring: str = "exact"
) -> NDArray[np.float64]:
    """Log-probabilities [n, B] of a bundle's model at windows of an event table, every candidate expanded."""
    layout = predictor.manifest.layout
    rows = []
    with progress_bar(f"score ({scoring})", len(targets)) as advance:
        for target in targets:
            event = table.event(int(target))
            place = event.place if layout.places else None
            history = table.history(int(target), layout.history_length)
            rows.append(predictor.log_probs(history, event.time, place, scoring))
            advance()
    return np.stack(rows)


def _sources(
    manifest: Manifest, table: EventTable, targets: Targets, model: NDArray[np.float64]
) -> tuple[str, dict[str, NDArray[np.float64]]]:
    """The bundle's default source, and the scores [n, B] of every source it has."""
    counts, held, places = manifest.candidates.counts, manifest.habits, manifest.layout.places
    if held is None:
        return "model", {"model": model, "habits": habit_log_probs(table, targets, counts, places=places)}
    # Loading has checked these.
    habits = habit_log_probs(table, targets, counts, HabitsConfig.from_dict(held["config"]), places)
    fusion = Fusion.from_dict(held["fusion"], manifest.candidates.groups())
    return str(held["default"]), {"model": model, "habits": habits, "fused": fusion.scores(model, habits)}


def _measured(
    calibration: Calibration,
    raw: NDArray[np.float64],
    scores: NDArray[np.float64],
    table: EventTable,
    union: Targets,
    targets: Targets,
) -> dict[str, Any]:
    rows = np.searchsorted(union, targets)
    truth, groups = table.behavior[targets].astype(np.int64), table.candidates.groups()
    before, after = log_softmax(raw[rows]), log_softmax(scores[rows])
    return measure(before, after, truth, groups, calibration.coverage, calibration.precision)


def _masked_differs(
    predictor: Predictor, table: EventTable, targets: Targets, exact: NDArray[np.float64], seed: int
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(targets), min(MASKED_WINDOWS, len(targets)), replace=False))
    masked = bundle_log_probs(predictor, table, targets[rows], "masked")
    return {"share": float((masked.argmax(1) != exact[rows].argmax(1)).mean()), "windows": len(rows)}
