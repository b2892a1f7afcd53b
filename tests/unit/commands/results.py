"""Metrics, a calibration and a balance as commands are given them."""

from __future__ import annotations

import numpy as np

from edge_behavior.core.calibration import Calibration
from edge_behavior.core.candidates import GROUPS
from edge_behavior.evaluation.metrics import Metrics, Outcome, behavior_metrics
from edge_behavior.evaluation.results import (
    EvaluatedDataset,
    Evaluation,
)
from tests.unit.commands.conftest import LABELS


def metrics(seed: int = 0) -> Metrics:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 50)
    outcome = Outcome(rng.normal(size=(50, 4)), truth, rng.integers(0, 5, 50))
    return behavior_metrics(outcome, LABELS, ("head", "medium", "tail", "tail"), resamples=20)


FOUND = Evaluation(
    {
        "model": {"natural": metrics(1), "balanced": metrics(2)},
        "place_hour_backoff": {"natural": metrics(3), "balanced": metrics(4)},
        "untuned": {"natural": metrics(5), "balanced": metrics(6)},
    },
    "model",
    EvaluatedDataset("d", "f", True),
)
RESULTS = {
    "natural": metrics(1).to_dict(),
    "balanced": metrics(2).to_dict(),
    "baselines": {
        "place_hour_backoff": {"natural": metrics(3).to_dict(), "balanced": metrics(4).to_dict()},
        "untuned": {"natural": metrics(5).to_dict(), "balanced": metrics(6).to_dict()},
    },
    "dataset": {"path": "d", "fingerprint": "f", "own": True},
}


MEASURED = {
    "windows": 100,
    "ece": {"before": 0.21, "after": 0.04},
    "nll": {"before": 2.5, "after": 2.25},
    "tail_nll": {"before": 4.5, "after": 4.25},
    "accuracy": {"before": 0.4, "after": 0.4},
    "coverage": {"0.9": {"overall": 0.91, "head": 0.95, "medium": 0.9, "tail": None, "size": 3.21}},
    "precision": {
        "0.5": {"share": 0.6, "suggested": 60, "precision": 0.57},
        "0.9": {"share": 0.0, "suggested": 0, "precision": None},
    },
}
CALIBRATED = {
    "model": Calibration(1.5, {"head": 0.0, "medium": -0.1, "tail": 0.4}, {0.9: 0.05}, {0.5: 0.3, 0.9: None}).to_dict(),
    "habits": Calibration(1.0, dict.fromkeys(GROUPS, 0.0), {0.9: 0.05}, {0.5: 0.3, 0.9: None}).to_dict(),
    "measured": {"split": "validation", "windows": 800, "users": 40, "folds": 5, "model": MEASURED, "habits": MEASURED},
}

_RECALLS = {"accuracy": 0.47, "overall": 0.45, "head": 0.5, "medium": 0.4, "tail": None}
_CURVE = {
    "curve": {
        "balance": [0.0, 0.05, 0.25, 0.3, 0.5],
        "accuracy": [0.5, 0.5, 0.49, 0.48, 0.4],
        "overall": [0.4, 0.41, 0.44, 0.46, 0.45],
        "head": [0.6, 0.6, 0.6, 0.5, 0.4],
        "medium": [0.3, 0.3, 0.3, 0.4, 0.4],
        "tail": [None] * 5,
    },
    "cross_validated": _RECALLS,
}
BALANCED = {
    "fitted": {"model": 0.3, "habits": 0.0},
    "calibration": None,
    "measured": {"split": "validation", "windows": 300, "users": 20, "folds": 5, "model": _CURVE, "habits": _CURVE},
}
