"""A small simulated dataset and a recipe whose stages take a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ImportOptions
from edge_behavior.data.simulator.simulator import simulate
from edge_behavior.evaluation.metrics import SIX, BehaviorMetrics, Metrics
from edge_behavior.train.recipe import Recipe, load_recipe

QUICK = [
    "backbone.hidden_size=32", "backbone.layers=1", "backbone.heads=2", "backbone.kv_heads=1",
    "backbone.intermediate_size=48", "backbone.vocab_size=400", "backbone.pretrain_tokens=4000",
    "a_tuning.max_targets=60", "a_tuning.max_steps=4", "a_tuning.learning_rate=0.02", "a_tuning.stretch_max=5",
    "b_tuning.pool_per_behavior=2", "b_tuning.max_steps=3", "b_tuning.batch_size=4", "b_tuning.learning_rate=0.01",
    "layout.history_length=4", "evaluation.per_user=2", "evaluation.per_behavior=1", "evaluation.limit=16",
    "evaluation.validation_targets=20", "threads=1",
    "method=two-stage",
]  # fmt: skip


def metrics_of(value: float, rows: Sequence[BehaviorMetrics]) -> Metrics:
    """Metrics that are all the same, on 9 windows."""
    shares = dict.fromkeys((*SIX, "hit_at_3", "hit_at_5", "mrr"), value)
    return Metrics(
        **shares,
        nll=1.0,
        windows=9,
        users=3,
        behaviors_measured=5,
        interval=None,
        resampled=None,
        per_behavior=tuple(rows),
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    simulate(30, 6, 1, folder / "log.csv")
    import_log(folder / "log.csv", "csv", folder / "data", ImportOptions(source_name="synth"))
    return folder / "data"


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return load_recipe("tiny", QUICK)
