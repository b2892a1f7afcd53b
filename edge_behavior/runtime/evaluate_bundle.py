"""Evaluate a bundle as the phone runs it, on the same windows and in the same terms as a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.evaluation import WindowChoice, check_labels_match, evaluate_all
from edge_behavior.runtime.predictor import Predictor


def evaluate_bundle(path: Path, data: Path, protocol: str, split: str, choice: WindowChoice) -> dict[str, Any]:
    """Metrics per protocol of a bundle, counters under `baselines`.

    Raises:
        EdgebError: not a bundle, or a dataset with another candidate set.
    """
    dataset = Dataset.open(data)
    table = dataset.events(split)
    with Predictor.load(path) as predictor:
        manifest = predictor.manifest
        check_labels_match(manifest.candidates, dataset.candidates, str(path))
        length = manifest.layout.history_length
        return evaluate_all(
            dataset,
            table,
            protocol,
            length,
            choice,
            {"model": lambda targets: bundle_log_probs(predictor, table, targets)},
        )


def bundle_log_probs(predictor: Predictor, table: EventTable, targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exact log-probabilities [n, B] of a bundle at windows of an event table."""
    length = predictor.manifest.layout.history_length
    rows = []
    for target in track(targets, description="score", console=Console(stderr=True), total=len(targets)):
        event = table.event(int(target))
        rows.append(predictor.log_probs(table.history(int(target), length), event.time, event.place))
    return np.stack(rows)
