"""Means, intervals and groups by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from edge_behavior.evaluation.metrics import BehaviorMetrics
from edge_behavior.studies.ablation.summary import SeedStatistic, over_seeds, regrouped
from tests.unit.studies.ablation.conftest import metrics_of


def test_interval_by_hand() -> None:
    """1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.3027."""
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.interval is not None
    low, high = found.interval
    assert high - 2.0 == pytest.approx(4.30265 / math.sqrt(3), abs=1e-4)
    assert 2.0 - low == pytest.approx(high - 2.0)


def test_interval_is_scipys() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.1, 5)
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert over_seeds(list(values)).interval == pytest.approx(expected)


def test_what_was_not_measured_is_left_out() -> None:
    assert over_seeds([]) == SeedStatistic(mean=None, interval=None, values=())
    assert over_seeds([None, 0.5]) == SeedStatistic(mean=0.5, interval=None, values=(0.5,))
    assert over_seeds([0.5, None, 0.7]).values == (0.5, 0.7)


def test_groups_are_those_asked_for() -> None:
    recalls = {"a": 0.9, "b": 0.5, "c": 0.1, "d": None}
    metrics = metrics_of(0.25, [BehaviorMetrics(name, "tail", 1, recall, None, 0) for name, recall in recalls.items()])
    found = regrouped(metrics, {"a": "head", "b": "tail", "c": "tail", "d": "medium"})
    assert found["head"] == pytest.approx(0.9)
    assert found["tail"] == pytest.approx(0.3)
    assert found["medium"] is None
    assert found["overall"] == 0.25
