"""Scores in, {system: {protocol: Metrics}} out: any model and the simple counters, on the same windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import ANCHOR_THRESHOLD
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.resampling import resampling
from edge_behavior.evaluation.counters import COUNTERS, Counters, transition_counts
from edge_behavior.evaluation.metrics import Metrics, Outcome, behavior_metrics
from edge_behavior.evaluation.protocols import EvaluationWindows

Floats = NDArray[np.float64]


def metrics_by_protocol(
    windows: EvaluationWindows, scores: Floats, anchor_threshold: float = ANCHOR_THRESHOLD, is_log_prob: bool = True
) -> dict[str, Metrics]:
    """Metrics of one system per protocol.

    Args:
        windows: What was scored.
        scores: [n, B] at `windows.targets`.
        anchor_threshold: Share of training events above which a behavior is no longer tail.
        is_log_prob: Whether the scores are log-probabilities.
    """
    table = windows.table
    labels, groups = table.candidates.labels, table.candidates.groups(anchor=anchor_threshold)
    found = {}
    for protocol in windows.protocols:
        outcome = Outcome(
            scores=scores[windows.rows(protocol)],
            truth=windows.truth(protocol),
            users=table.user_of(protocol.targets),
            is_log_prob=is_log_prob,
            resampling=resampling(table, protocol.targets),
        )
        found[protocol.name] = behavior_metrics(outcome, labels, groups)
    return found


def counter_metrics(
    dataset: Dataset, windows: EvaluationWindows, anchor_threshold: float = ANCHOR_THRESHOLD
) -> dict[str, dict[str, Metrics]]:
    """Metrics of every simple counter, by name and protocol."""
    counters, found = fit_counters(dataset, windows.history_length), {}
    for name in COUNTERS:
        scores = counters.scores(name, windows.table, windows.targets)
        found[name] = metrics_by_protocol(windows, scores, anchor_threshold, is_log_prob=False)
    return found


def fit_counters(dataset: Dataset, history_length: int) -> Counters:
    """Counters with the training part's frequencies and transitions."""
    train, size = dataset.events("train"), len(dataset.candidates)
    counts = np.asarray(dataset.candidates.counts, dtype=np.float64)
    return Counters(counts, transition_counts(train, train.user_offsets, size), history_length)
