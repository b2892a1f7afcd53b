"""The evaluation stage: backbone, A-tuned and B-tuned model on the test users, beside the simple counters."""

from __future__ import annotations

from typing import Any

from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.protocols import WindowChoice, evaluate_all
from edge_behavior.train.run.folder import write_json
from edge_behavior.train.stage_list import MODELS
from edge_behavior.train.stages.context import StageContext
from edge_behavior.train.stages.scoring import ScoringPass, stage_scorer
from edge_behavior.train.trainer.processes import is_main


def evaluate_test_users(context: StageContext) -> dict[str, Any]:
    """Write metrics.json; the report is empty."""
    recipe, settings = context.recipe, context.recipe.evaluation
    table, length = context.dataset.events("test"), context.run.layout.history_length
    choice = WindowChoice(settings.per_user, settings.per_behavior, settings.limit, recipe.seed)
    threshold = recipe.a_tuning.anchor_threshold
    scorers = {
        name: stage_scorer(
            context.models,
            name,
            table,
            recipe.seed,
            ScoringPass(f"test {name}", recipe.scoring.tokens_per_pass, context.folder("evaluation")),
        )
        for name in MODELS
    }
    found = evaluate_all(context.dataset, table, "both", length, choice, scorers, threshold)["baselines"]
    if is_main():
        write_json(
            context.run.path / "metrics.json",
            {
                "models": {name: found[name] for name in MODELS},
                "counters": {name: found[name] for name in COUNTERS},
                "anchor_threshold": threshold,
                "seed": recipe.seed,
            },
        )
    return {}
