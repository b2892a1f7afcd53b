"""Evaluate a finished run: its final model, the untuned backbone and the counters on the same windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.data.dataset import Dataset
from edge_behavior.evaluation import Score, WindowChoice, check_labels_match, evaluate_all
from edge_behavior.recipes import load_recipe
from edge_behavior.runs import STAGES, RunFolder, saved_recipe
from edge_behavior.train.model_access import RunModels
from edge_behavior.train.scoring_pass import score_windows


def evaluate_run(
    path: Path, data: Path, protocol: str, split: str, choice: WindowChoice, untuned: bool
) -> dict[str, Any]:
    """Metrics per protocol of the last stage, and of everything it has to beat under `baselines`.

    Raises:
        EdgebError: not a finished run, or a dataset with another candidate set.
    """
    run, dataset = RunFolder.open(path), Dataset.open(data)
    # Names the stage that is missing.
    _ = run.final_adapter
    check_labels_match(run.candidates, dataset.candidates, str(path))
    recipe = load_recipe(str(saved_recipe(path)))
    models, table = RunModels(run, recipe.backbone), dataset.events(split)
    names = {"model": STAGES[-1], **({"untuned": "untuned"} if untuned else {})}

    def scorer(stage: str) -> Score:
        def score(targets: NDArray[np.int64]) -> NDArray[np.float64]:
            model = models.load(stage)
            return score_windows(model, models.encoder, table, targets, f"{split} {stage}", choice.seed).log_probs

        return score

    return evaluate_all(
        dataset,
        table,
        protocol,
        run.layout.history_length,
        choice,
        {name: scorer(stage) for name, stage in names.items()},
        recipe.a_tuning.anchor_threshold,
    )
