"""The evaluation stage: backbone, A-tuned and B-tuned model on the test users, beside the simple counters."""

from __future__ import annotations

from typing import Any

from edge_behavior.evaluation.evaluate import counter_metrics, metrics_by_protocol
from edge_behavior.evaluation.metrics import Metrics
from edge_behavior.evaluation.protocols import EvaluationWindows, WindowChoice
from edge_behavior.evaluation.results import RunMetrics
from edge_behavior.train.run.metrics import write_metrics
from edge_behavior.train.stage_list import MODELS, TUNED
from edge_behavior.train.stages.context import StageContext
from edge_behavior.train.stages.scoring import stage_scorer
from edge_behavior.train.trainer.processes import is_main


def evaluate_test_users(context: StageContext) -> dict[str, Any]:
    """Write metrics.json; the report is empty."""
    recipe, settings = context.recipe, context.recipe.evaluation
    threshold, seed = recipe.a_tuning.anchor_threshold, recipe.seed
    choice = WindowChoice(settings.per_user, settings.per_behavior, settings.limit, seed)
    table, length = context.dataset.events("test"), context.run.layout.history_length
    windows = EvaluationWindows.draw("both", table, length, choice)
    found: dict[str, dict[str, Metrics]] = {}
    for name in MODELS:
        if name == TUNED[-1] and recipe.b_tuning.method == "none":
            # The A-tuned model again.
            found[name] = found[TUNED[0]]
            continue
        score = stage_scorer(
            context.models, name, table, recipe, seed, f"test {name}", shards=context.folder("evaluation")
        )
        found[name] = metrics_by_protocol(windows, score(windows.targets), threshold)
    counters = counter_metrics(context.dataset, windows, threshold)
    if is_main():
        write_metrics(context.run, RunMetrics(found, counters, threshold, seed))
    return {}
