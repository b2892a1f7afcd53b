"""Evaluate a bundle as the phone runs it, on the same windows and in the same terms as a run.

The model sees the layout's last L events; habits count everything the user did before the target. Scores are balanced
and calibrated as `predict` does it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.balance import Balance, balance_offsets
from edge_behavior.core.calibration import Calibration
from edge_behavior.core.fusion import Fusion
from edge_behavior.core.population import PopulationTable
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.evaluation.calibration import measure_calibration
from edge_behavior.evaluation.evaluate import counter_metrics, metrics_by_protocol
from edge_behavior.evaluation.habits import accuracy_by_history, habit_log_probs
from edge_behavior.evaluation.protocols import EvaluationWindows, Targets, WindowChoice, check_dataset_fits
from edge_behavior.evaluation.results import BundleEvaluation, EvaluatedDataset, MaskedDifference
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.util.progress import progress_bar

# Windows on which masked and exact scoring are compared.
MASKED_WINDOWS = 200

Floats = NDArray[np.float64]


def evaluate_bundle(
    path: Path,
    data: Path,
    protocol: str,
    split: str,
    choice: WindowChoice,
    load: Callable[[Path], Predictor] | None = None,
    balance: Balance = 0.0,
) -> BundleEvaluation:
    """Metrics of a bundle's sources and of the simple counters, on the same windows.

    The sources are `bundle_model`, `bundle_habits` and, if the bundle has fusion weights, `bundle_fused`. A bundle
    carries no fingerprint of its dataset: one with the same training counts counts as its own. `load` opens it,
    by default `Predictor.load`; `balance` is as in `PredictOptions`.

    Raises:
        EdgebError: not a bundle, a dataset with another candidate set or without the bundle's places, a fitted balance
            that the bundle does not have.
    """
    dataset = Dataset.open(data)
    with (load or Predictor.load)(path) as predictor:
        manifest = predictor.manifest
        check_dataset_fits(manifest.candidates, manifest.layout, dataset, str(path))
        # Before anything is scored.
        balances = {name: manifest.balance_of(name, balance) for name in manifest.sources}
        counts = manifest.candidates.counts
        offsets = {name: balance_offsets(value, counts) for name, value in balances.items()}
        length = manifest.layout.history_length
        windows = EvaluationWindows.draw(protocol, dataset.events(split), length, choice)
        table = windows.table
        model = bundle_log_probs(predictor, table, windows.targets)
        masked = _masked_differs(predictor, table, windows.targets, model, choice.seed)
    source, raw = _sources(manifest, predictor.population, table, windows.targets, model)
    raw = {name: held + offsets[name] for name, held in raw.items()}
    found = {name: manifest.calibration_at(name, value) for name, value in balances.items()}
    calibrations = {name: held for name, held in found.items() if held is not None}
    groups = manifest.candidates.groups()
    scores = {name: calibrations.get(name, Calibration()).scores(held, groups) for name, held in raw.items()}
    by_history, calibrated = {}, {}
    for p in windows.protocols:
        rows, truth = windows.rows(p), windows.truth(p)
        mine = {name: held[rows] for name, held in scores.items()}
        by_history[p.name] = accuracy_by_history(table, p.targets, mine, length)
        calibrated[p.name] = {
            name: measure_calibration(
                log_softmax(raw[name][rows]), log_softmax(mine[name]), truth, groups, held.coverage, held.precision
            )
            for name, held in calibrations.items()
        }
    own = manifest.candidates.counts == dataset.candidates.counts
    results = {f"bundle_{name}": metrics_by_protocol(windows, held) for name, held in scores.items()}
    return BundleEvaluation(
        {**results, **counter_metrics(dataset, windows)},
        f"bundle_{source}",
        EvaluatedDataset(str(dataset.path), dataset.fingerprint, own),
        source,
        by_history,
        masked,
        calibrated if calibrations else None,
        balances,
        predictor.accelerator,
    )


def bundle_log_probs(predictor: Predictor, table: EventTable, targets: Targets, scoring: str = "exact") -> Floats:
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


def stretch_log_probs(predictor: Predictor, table: EventTable, targets: Targets) -> Floats:
    """Log-probabilities [n, B] of a bundle's model at consecutive targets of one user, every candidate expanded.

    They are a session's: its window grows from the layout's L events by one per target, and each target pays for its
    new event and the label trie only.
    """
    layout, session = predictor.manifest.layout, predictor.session()
    first, rows = int(targets[0]), []
    for event in table.history(first, layout.history_length):
        session.observe(event)
    for target in targets:
        if target != first:
            session.observe(table.event(int(target) - 1))
        event = table.event(int(target))
        rows.append(session.log_probs(event.time, event.place if layout.places else None))
    return np.stack(rows)


def _sources(
    manifest: Manifest, population: PopulationTable | None, table: EventTable, targets: Targets, model: Floats
) -> tuple[str, dict[str, Floats]]:
    """The bundle's default source, and the scores [n, B] of every source it has."""
    counts, held, places = manifest.candidates.counts, manifest.habits, manifest.layout.places
    if held is None:
        habits = habit_log_probs(table, targets, counts, places=places, population=population)
        return "model", {"model": model, "habits": habits}
    habits = habit_log_probs(table, targets, counts, held.config, places, population)
    fusion = Fusion(held.weights, manifest.candidates.groups())
    return held.default, {"model": model, "habits": habits, "fused": fusion.scores(model, habits)}


def _masked_differs(
    predictor: Predictor, table: EventTable, targets: Targets, exact: Floats, seed: int
) -> MaskedDifference:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(targets), min(MASKED_WINDOWS, len(targets)), replace=False))
    masked = bundle_log_probs(predictor, table, targets[rows], "masked")
    return MaskedDifference(float((masked.argmax(1) != exact[rows].argmax(1)).mean()), len(rows))
