"""The state of an ablation: means and intervals over seeds, differences to the full recipe, missing and failed runs.

Reads finished run folders; trains and scores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from edge_behavior.core.candidates import GROUPS
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.metrics import SIX, Metrics
from edge_behavior.evaluation.protocols import PROTOCOLS
from edge_behavior.studies.ablation.folder import AblationFolder
from edge_behavior.studies.ablation.studies import FULL, Plan, Variant
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.metrics import read_metrics
from edge_behavior.train.stage_list import MODELS

METRICS = (*SIX, "nll")
INTERVAL = "95 % Student t interval of the mean over seeds"

# {protocol: {metric: value}} of one model of one run.
Values = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class SeedStatistic:
    """Mean of one number over seeds; `interval` is None for a single seed, `mean` too without any."""

    mean: float | None
    interval: tuple[float, float] | None
    values: tuple[float, ...]


# {protocol: {metric: statistic}}
Statistics = Mapping[str, Mapping[str, SeedStatistic]]


@dataclass(frozen=True)
class MeasuredWindows:
    """How much one protocol measured in a run."""

    windows: int
    users: int
    behaviors_measured: int


@dataclass(frozen=True)
class RunCount:
    """A number of runs, `of` so many."""

    runs: int
    of: int


@dataclass(frozen=True)
class VariantSummary:
    """A variant over its seeds.

    Attributes:
        name, title, value, changes: As in `Variant`; paths in `changes` are file names.
        is_full: Whether it is the full recipe for every seed.
        runs: Run names, by seed.
        finished: Number of finished runs.
        kept_a_tuned: Runs in which no step of B-Tuning beat the A-tuned weights, of those with a B-Tuning.
        conversations_per_epoch: Mean over runs; None if unknown.
        metrics: Of the final model.
        difference: Variant minus full recipe, paired by seed.
    """

    name: str
    title: str
    value: float | None
    changes: Mapping[str, Any]
    is_full: bool
    runs: tuple[str, ...]
    finished: int
    kept_a_tuned: RunCount
    conversations_per_epoch: float | None
    metrics: Statistics
    difference: Statistics


@dataclass(frozen=True)
class StudySummary:
    """A study's variants, in order; the other fields are as in `Study`."""

    name: str
    title: str
    note: str
    swept: bool
    variants: tuple[VariantSummary, ...]


@dataclass(frozen=True)
class StudiedDataset:
    """The dataset of an ablation: `splits` as in dataset.json, `split` in words."""

    name: str
    fingerprint: str
    behaviors: int
    splits: Mapping[str, Any]
    split: str


@dataclass(frozen=True)
class Setting:
    """What all runs of an ablation have in common.

    Attributes:
        edgeb: Version of edgeb.
        recipe: Name of the base recipe.
        method: Its method in words.
        backbone: Its path, or "stand-in".
        dataset: What was trained on.
        notes: Sentences that every reader has to know.
        base_recipe: Its fields.
    """

    edgeb: str
    recipe: str
    method: str
    backbone: str
    dataset: StudiedDataset
    notes: tuple[str, ...]
    base_recipe: Mapping[str, Any]


@dataclass(frozen=True)
class AblationSummary:
    """Content of ablation.json.

    Attributes:
        setting: What all runs have in common.
        seeds: Seeds of every variant.
        windows: What the first finished run measured, per protocol; None without one.
        stages: Counters, and the full recipe's model after each stage.
        full: The full recipe.
        studies: What was varied.
        missing: Names of the runs that are not finished.
        failed: Why runs failed, by name.
    """

    setting: Setting
    seeds: tuple[int, ...]
    windows: Mapping[str, MeasuredWindows] | None
    stages: Mapping[str, Statistics]
    full: VariantSummary
    studies: tuple[StudySummary, ...]
    missing: tuple[str, ...]
    failed: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, as in ablation.json."""
        found = asdict(self)
        return {"schema_version": 1, **found.pop("setting"), "interval": INTERVAL, **found}


@dataclass(frozen=True)
class _RunValues:
    """Numbers of a finished run; None where its stages do not report one."""

    models: Mapping[str, Values]
    windows: Mapping[str, MeasuredWindows]
    conversations: int | None
    best_step: int | None


def over_seeds(values: Sequence[float | None], confidence: float = 0.95) -> SeedStatistic:
    """Mean and two-sided Student t interval of one number over seeds; None values are left out."""
    known = np.array([v for v in values if v is not None], dtype=np.float64)
    if not len(known):
        return SeedStatistic(None, None, ())
    mean = float(known.mean())
    if len(known) == 1:
        return SeedStatistic(mean, None, (mean,))
    quantile = float(student_t.ppf(0.5 + confidence / 2, len(known) - 1))
    half = quantile * float(known.std(ddof=1)) / float(np.sqrt(len(known)))
    return SeedStatistic(mean, (mean - half, mean + half), tuple(float(v) for v in known))


def regrouped(metrics: Metrics, groups: Mapping[str, str]) -> dict[str, float | None]:
    """The metrics of one protocol with head, medium and tail as the base recipe defines them.

    A run's own groups follow its anchor threshold, so runs that vary it would not be comparable otherwise.

    Args:
        metrics: Of one model.
        groups: head, medium or tail per label.
    """
    found = {name: metrics.value(name) for name in METRICS}
    for group in GROUPS:
        recalls = [
            row.recall for row in metrics.per_behavior if groups[row.behavior] == group and row.recall is not None
        ]
        found[group] = float(np.mean(recalls)) if recalls else None
    return found


def summarize(folder: AblationFolder, plan: Plan, setting: Setting, anchor_threshold: float) -> AblationSummary:
    """What an ablation has reached so far.

    Args:
        folder: The ablation.
        plan: All runs that were asked for.
        setting: What they have in common.
        anchor_threshold: The base recipe's.

    Raises:
        EdgebError: a file of a finished run is damaged.
    """
    found = {name: _read(folder, name, anchor_threshold) for name in sorted({*plan.run_of.values()})}
    full = [found[plan.run_of[FULL, seed]] for seed in plan.seeds]
    first = next((run for run in found.values() if run is not None), None)
    errors = {name: folder.error(name) for name, run in found.items() if run is None}
    return AblationSummary(
        setting=setting,
        seeds=plan.seeds,
        windows=None if first is None else first.windows,
        stages={model: _statistics([_of(run, model) for run in full]) for model in (*MODELS, *COUNTERS)},
        full=_variant(Variant(FULL, "full recipe"), plan, found),
        studies=tuple(
            StudySummary(
                study.name,
                study.title,
                study.note,
                study.swept,
                tuple(_variant(variant, plan, found) for variant in study.variants),
            )
            for study in plan.studies
        ),
        missing=tuple(name for name, error in errors.items() if error is None),
        failed={name: error for name, error in errors.items() if error},
    )


def _read(folder: AblationFolder, name: str, anchor_threshold: float) -> _RunValues | None:
    """Numbers of a finished run; None for one that is not."""
    if not folder.finished(name):
        return None
    run = RunFolder.open(folder.run_path(name))
    metrics, candidates = read_metrics(run), run.candidates
    groups = dict(zip(candidates.labels, candidates.groups(anchor=anchor_threshold), strict=True))
    return _RunValues(
        models={
            model: {protocol: regrouped(held[protocol], groups) for protocol in PROTOCOLS}
            for model, held in metrics.systems.items()
        },
        windows={
            protocol: MeasuredWindows(held.windows, held.users, held.behaviors_measured)
            for protocol, held in ((p, metrics.final[p]) for p in PROTOCOLS)
        },
        conversations=(run.done("a_tuning") or {}).get("conversations_per_epoch"),
        best_step=(run.done("b_tuning") or {}).get("best_step"),
    )


def _of(run: _RunValues | None, model: str) -> Values | None:
    return None if run is None else run.models[model]


def _variant(variant: Variant, plan: Plan, found: Mapping[str, _RunValues | None]) -> VariantSummary:
    names = tuple(plan.run_of[variant.name, seed] for seed in plan.seeds)
    finished = [run for name in names if (run := found[name]) is not None]
    finals = [_of(found[name], "b_tuning") for name in names]
    fulls = [_of(found[plan.run_of[FULL, seed]], "b_tuning") for seed in plan.seeds]
    best_steps = [run.best_step for run in finished if run.best_step is not None]
    talks = [run.conversations for run in finished if run.conversations is not None]
    return VariantSummary(
        name=variant.name,
        title=variant.title,
        value=variant.value,
        # File names without their folders: where a file lies does not affect the result.
        changes={k: Path(v).name if k.endswith("_path") else v for k, v in variant.changes.items()},
        is_full=all(plan.run_of[variant.name, seed] == plan.run_of[FULL, seed] for seed in plan.seeds),
        runs=names,
        finished=len(finished),
        kept_a_tuned=RunCount(best_steps.count(0), len(best_steps)),
        conversations_per_epoch=float(np.mean(talks)) if talks else None,
        metrics=_statistics(finals),
        difference=_differences(finals, fulls),
    )


def _statistics(runs: Sequence[Values | None]) -> Statistics:
    return _each(lambda p, m: over_seeds([None if run is None else run[p][m] for run in runs]))


def _differences(runs: Sequence[Values | None], fulls: Sequence[Values | None]) -> Statistics:
    """Variant minus full recipe, seed by seed."""

    def gap(run: Values | None, full: Values | None, protocol: str, metric: str) -> float | None:
        if run is None or full is None:
            return None
        ours, theirs = run[protocol][metric], full[protocol][metric]
        return None if ours is None or theirs is None else float(ours - theirs)

    return _each(lambda p, m: over_seeds([gap(r, f, p, m) for r, f in zip(runs, fulls, strict=True)]))


def _each(statistic: Callable[[str, str], SeedStatistic]) -> Statistics:
    return {protocol: {metric: statistic(protocol, metric) for metric in METRICS} for protocol in PROTOCOLS}
