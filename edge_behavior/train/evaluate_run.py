"""Evaluate a run's models on the same windows as the counters: as its last stage, and for `edgeb evaluate`."""

from __future__ import annotations

from pathlib import Path

from edge_behavior.data.dataset import Dataset
from edge_behavior.data.verify import verify
from edge_behavior.evaluation.evaluate import counter_metrics, metrics_by_protocol
from edge_behavior.evaluation.protocols import EvaluationWindows, WindowChoice, check_dataset_fits
from edge_behavior.evaluation.results import EvaluatedDataset, Evaluation, RunMetrics
from edge_behavior.train.recipe import Recipe, load_recipe
from edge_behavior.train.run.folder import STAGES, RunFolder, saved_recipe
from edge_behavior.train.run.inputs import shown_sha256
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.run.provenance import check_run
from edge_behavior.train.stages.scoring import stage_scorer

MODELS = ("untuned", *STAGES)


def evaluate_models(dataset: Dataset, recipe: Recipe, models: RunModels, length: int, shards: Path) -> RunMetrics:
    """Metrics of the untuned backbone, of the model after each stage, and of the counters, on the test part.

    Args:
        length: Events of history per window.
        shards: Folder that keeps the scores; a second call reads them from there.
    """
    settings, threshold = recipe.evaluation, recipe.a_tuning.anchor_threshold
    choice = WindowChoice(settings.per_user, settings.per_behavior, settings.limit, recipe.seed)
    table, tokens = dataset.events("test"), recipe.scoring.tokens_per_pass
    windows = EvaluationWindows.draw("both", table, length, choice)
    found = {}
    for name in MODELS:
        score = stage_scorer(models, name, table, f"test {name}", recipe.seed, shards, tokens)
        found[name] = metrics_by_protocol(windows, score(windows.targets), threshold)
    return RunMetrics(found, counter_metrics(dataset, windows, threshold), threshold, recipe.seed)


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
    recipe = load_recipe(str(saved_recipe(path)))
    verify(dataset)
    check_run(run, STAGES[-1:], recipe.backbone.revision, shown_sha256)
    models, table, threshold = RunModels(run, recipe.backbone), dataset.events(split), recipe.a_tuning.anchor_threshold
    windows = EvaluationWindows.draw(protocol, table, run.layout.history_length, choice)
    results = {}
    for name, stage in (("model", STAGES[-1]), *((("untuned", "untuned"),) if untuned else ())):
        score = stage_scorer(
            models, stage, table, f"{split} {stage}", choice.seed, None, recipe.scoring.tokens_per_pass
        )
        results[name] = metrics_by_protocol(windows, score(windows.targets), threshold)
    trained_on = (run.state.get("dataset") or {}).get("fingerprint")
    measured_on = EvaluatedDataset(str(dataset.path), dataset.fingerprint, dataset.fingerprint == trained_on)
    return Evaluation({**results, **counter_metrics(dataset, windows, threshold)}, "model", measured_on)
