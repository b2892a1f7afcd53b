"""Evaluate a run's models on the same windows as the counters, for `edgeb evaluate`.

What the run's own evaluation has measured on just these windows is taken from its metrics.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from edge_behavior.data.dataset import Dataset
from edge_behavior.data.verify import verify
from edge_behavior.evaluation.evaluate import counter_metrics, metrics_by_protocol
from edge_behavior.evaluation.protocols import PROTOCOLS, EvaluationWindows, WindowChoice, check_dataset_fits
from edge_behavior.evaluation.results import EvaluatedDataset, Evaluation, Results
from edge_behavior.hf.folder import is_model_file
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.inputs import shown_sha256
from edge_behavior.train.run.metrics import read_metrics
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.run.provenance import check_run
from edge_behavior.train.stage_list import BACKBONE_FIELD, TUNED, UNTUNED
from edge_behavior.train.stages.scoring import stage_scorer

_TEST = "test"


def evaluate_run(
    path: Path, data: Path, protocol: str, split: str, choice: WindowChoice, stages: Sequence[str]
) -> Evaluation:
    """Metrics of a finished run's models and of the counters.

    Args:
        path: The run folder.
        data: Dataset folder.
        protocol: natural, balanced or both.
        split: test, validation or train.
        choice: Which windows.
        stages: Some of `MODELS`, the final one among them. Where stage 2 was off, the two tuned models are one: it is
            measured once, as `tuned`.

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
    own = dataset.fingerprint == run.state.fingerprint
    recorded = own and split == _TEST and _measured(run) == choice
    adapters = [stage for stage in TUNED if stage in stages]
    check_run(run, [*adapters, "evaluation"] if recorded else adapters, recipe.backbone.revision, shown_sha256)
    windows = EvaluationWindows.draw(protocol, dataset.events(split), run.layout.history_length, choice)
    one = recipe.b_tuning.method == "none"
    wanted = [stage for stage in stages if not (one and stage in TUNED[:-1])]
    found = _recorded(run, wanted, windows) if recorded else _scored(run, wanted, windows, split, choice.seed)
    names = {TUNED[-1]: "tuned"} if one else {}
    results = {names.get(stage, stage): held for stage, held in found.items()}
    counters = counter_metrics(dataset, windows, recipe.a_tuning.anchor_threshold)
    measured_on = EvaluatedDataset(str(dataset.path), dataset.fingerprint, own)
    untuned = _untuned_sha256(run) if UNTUNED in wanted else None
    return Evaluation(
        {**results, **counters},
        names.get(TUNED[-1], TUNED[-1]),
        measured_on,
        recorded=recorded,
        untuned_sha256=untuned,
    )


def _measured(run: RunFolder) -> WindowChoice | None:
    """The windows of the run's own evaluation, of both protocols on test users; None where it has not finished."""
    if run.done("evaluation") is None:
        return None
    settings = run.recipe.evaluation
    return WindowChoice(settings.per_user, settings.per_behavior, settings.limit, run.recipe.seed)


def _recorded(run: RunFolder, stages: Sequence[str], windows: EvaluationWindows) -> Results:
    models, asked = read_metrics(run).models, {protocol.name for protocol in windows.protocols}
    return {stage: {p: models[stage][p] for p in PROTOCOLS if p in asked} for stage in stages}


def _scored(run: RunFolder, stages: Sequence[str], windows: EvaluationWindows, split: str, seed: int) -> Results:
    recipe, found = run.recipe, {}
    models, threshold = RunModels(run, recipe.backbone), recipe.a_tuning.anchor_threshold
    for stage in stages:
        score = stage_scorer(models, stage, windows.table, recipe, seed, f"{split} {stage}")
        found[stage] = metrics_by_protocol(windows, score(windows.targets), threshold)
    return found


def _untuned_sha256(run: RunFolder) -> str | None:
    """Of the backbone's files, the layout and how windows are scored: what an untuned model's scores depend on."""
    state = run.state
    files = {name: file.sha256 for name, file in state.inputs.get(BACKBONE_FIELD, {}).items()}
    if state.backbone.standin and "backbone" in state.made:
        made = state.made["backbone"].files
        files = {Path(name).name: checksum for name, checksum in made.items() if is_model_file(Path(name).name)}
    # Runs of older versions have no checksums.
    if not files:
        return None
    measured = [files, state.layout, run.recipe.scoring.bound, run.recipe.scoring.windows]
    return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()
