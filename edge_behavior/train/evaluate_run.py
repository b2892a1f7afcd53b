"""Evaluate a finished run: its final model, the untuned backbone and the counters on the same windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_behavior.data.dataset import Dataset
from edge_behavior.data.verify import verify
from edge_behavior.evaluation.protocols import WindowChoice, check_dataset_fits, evaluate_all
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.inputs import shown_sha256
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.run.provenance import check_run
from edge_behavior.train.stage_list import TUNED, UNTUNED
from edge_behavior.train.stages.scoring import ScoringPass, stage_scorer


def evaluate_run(
    path: Path, data: Path, protocol: str, split: str, choice: WindowChoice, untuned: bool
) -> dict[str, Any]:
    """Metrics per protocol of the last stage, and of everything it has to beat under `baselines`.

    `dataset` says which one that was: path, fingerprint, and whether it is the one that the run was trained on.

    Raises:
        EdgebError: not a finished run; a dataset with another candidate set, without the run's places, or changed since
            it was imported; or a backbone or adapter that is another than that of the training.
    """
    run, dataset = RunFolder.open(path), Dataset.open(data)
    # Names the stage that is missing.
    _ = run.final_adapter
    check_dataset_fits(run.candidates, run.layout, dataset, str(path))
    recipe = run.recipe
    verify(dataset)
    check_run(run, TUNED[-1:], recipe.backbone.revision, shown_sha256)
    models, table = RunModels(run, recipe.backbone), dataset.events(split)
    tokens = recipe.scoring.tokens_per_pass
    names = {"model": TUNED[-1], **({"untuned": UNTUNED} if untuned else {})}

    found = evaluate_all(
        dataset,
        table,
        protocol,
        run.layout.history_length,
        choice,
        {
            name: stage_scorer(models, s, table, choice.seed, ScoringPass(f"{split} {s}", tokens))
            for name, s in names.items()
        },
        recipe.a_tuning.anchor_threshold,
    )
    own = {
        "path": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "own": dataset.fingerprint == run.state.fingerprint,
    }
    return {**found, "dataset": own}
