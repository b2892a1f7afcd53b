"""Evaluate a run's models on the same windows as the counters: as its last stage, and for `edgeb evaluate`."""

from __future__ import annotations

from pathlib import Path

from edge_behavior.data.dataset import Dataset
from edge_behavior.data.verify import verify
from edge_behavior.evaluation.evaluate import counter_metrics, metrics_by_protocol
from edge_behavior.evaluation.protocols import EvaluationWindows, WindowChoice, check_dataset_fits
from edge_behavior.evaluation.results import EvaluatedDataset, Evaluation
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.inputs import shown_sha256
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.run.provenance import check_run
from edge_behavior.train.stage_list import TUNED, UNTUNED
from edge_behavior.train.stages.scoring import stage_scorer


def evaluate_run(path: Path, data: Path, protocol: str, split: str, choice: WindowChoice, untuned: bool) -> Evaluation:
    """Metrics of a finished run's final model (`model`), of the counters and, if asked for, of the untuned backbone.

    Raises:
        EdgebError: not a finished run; a dataset with another candidate set, without the run's places, or changed since
            it was imported; or another backbone or adapter than that of the training.
    """
    run, dataset = RunFolder.open(path), Dataset.open(data)
    # Names the stage that is missing.
    _ = run.final_adapter
    check_dataset_fits(run.candidates, run.layout, dataset, str(path))
    recipe = run.recipe
    verify(dataset)
    check_run(run, TUNED[-1:], recipe.backbone.revision, shown_sha256)
    models, table, threshold = RunModels(run, recipe.backbone), dataset.events(split), recipe.a_tuning.anchor_threshold
    windows = EvaluationWindows.draw(protocol, table, run.layout.history_length, choice)
    results = {}
    for name, stage in (("model", TUNED[-1]), *(((UNTUNED, UNTUNED),) if untuned else ())):
        score = stage_scorer(models, stage, table, recipe, choice.seed, f"{split} {stage}")
        results[name] = metrics_by_protocol(windows, score(windows.targets), threshold)
    own = dataset.fingerprint == run.state.fingerprint
    measured_on = EvaluatedDataset(str(dataset.path), dataset.fingerprint, own)
    return Evaluation({**results, **counter_metrics(dataset, windows, threshold)}, "model", measured_on)
