"""What an ablation reached so far: means and intervals over seeds, differences to the full recipe, what is missing.

Reads finished run folders; trains and scores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from edge_behavior.core.candidates import GROUPS, CandidateSet
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.metrics import SIX
from edge_behavior.evaluation.protocols import PROTOCOLS
from edge_behavior.studies.ablation.folder import AblationFolder
from edge_behavior.studies.ablation.studies import FULL, Plan, Variant
from edge_behavior.train.pipeline import metrics_of
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.stage_list import MODELS, TUNED

METRICS = (*SIX, "nll")
INTERVAL = "95 % Student t interval of the mean over seeds"


@dataclass(frozen=True)
class SeedStatistic:
    """Mean over seeds of one number; `interval` is None for a single seed, all is None without any."""

    values: tuple[float, ...]
    mean: float | None
    interval: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ablation.json."""
        return {
            "mean": self.mean,
            "interval": None if self.interval is None else list(self.interval),
            "values": list(self.values),
        }


def over_seeds(values: Sequence[float | None], confidence: float = 0.95) -> SeedStatistic:
    """Mean and two-sided Student t interval of values of several seeds; unmeasured ones are left out."""
    known = np.array([v for v in values if v is not None], dtype=np.float64)
    if not len(known):
        return SeedStatistic((), None, None)
    mean = float(known.mean())
    if len(known) == 1:
        return SeedStatistic((mean,), mean, None)
    quantile = float(student_t.ppf(0.5 + confidence / 2, len(known) - 1))
    half = quantile * float(known.std(ddof=1)) / float(np.sqrt(len(known)))
    return SeedStatistic(tuple(float(v) for v in known), mean, (mean - half, mean + half))


def regrouped(metrics: Mapping[str, Any], groups: Mapping[str, str]) -> dict[str, float | None]:
    """The metrics of one protocol with head, medium and tail as the base recipe draws them.

    A run's own groups follow its anchor threshold; runs that vary it would else not be comparable.

    Args:
        metrics: Of one model and protocol, as metrics.json holds them.
        groups: head, medium or tail per label.
    """
    found: dict[str, float | None] = {name: metrics.get(name) for name in METRICS}
    for group in GROUPS:
        recalls = [
            row["recall"]
            for row in metrics["per_behavior"]
            if groups[row["behavior"]] == group and row["recall"] is not None
        ]
        found[group] = float(np.mean(recalls)) if recalls else None
    return found


def summarize(folder: AblationFolder, plan: Plan, facts: Mapping[str, Any], anchor_threshold: float) -> dict[str, Any]:
    """Content of ablation.json.

    Args:
        folder: The ablation.
        plan: Everything it was asked for.
        facts: What to state beside the numbers.
        anchor_threshold: The base recipe's.
    """
    found = {name: _read(folder, name, anchor_threshold) for name in sorted({*plan.run_of.values()})}
    full = {seed: found[plan.run_of[FULL, seed]] for seed in plan.seeds}
    first = next((run for run in found.values() if run is not None), None)
    variants = [Variant(FULL, "full recipe")]
    return {
        "schema_version": 1,
        **facts,
        "interval": INTERVAL,
        "seeds": list(plan.seeds),
        "windows": None if first is None else first["windows"],
        "stages": {model: _statistics([_of(full[s], model) for s in plan.seeds]) for model in (*MODELS, *COUNTERS)},
        "full": _variant(variants[0], plan, found),
        "studies": [
            {
                "name": study.name,
                "title": study.title,
                "note": study.note,
                "swept": study.swept,
                "variants": [_variant(variant, plan, found) for variant in study.variants],
            }
            for study in plan.studies
        ],
        "missing": [name for name, run in found.items() if run is None and folder.error(name) is None],
        "failed": {name: error for name, run in found.items() if run is None and (error := folder.error(name))},
    }


def _read(folder: AblationFolder, name: str, anchor_threshold: float) -> dict[str, Any] | None:
    """Numbers of a finished run; None for one that is not."""
    if not folder.finished(name):
        return None
    run = RunFolder.open(folder.run_path(name))
    metrics = metrics_of(run)
    candidates: CandidateSet = run.candidates
    groups = dict(zip(candidates.labels, candidates.groups(anchor=anchor_threshold), strict=True))
    stage_a, stage_b = run.done("a_tuning") or {}, run.done("b_tuning") or {}
    every = {**metrics["counters"], **metrics["models"]}
    protocols = {protocol: every["b_tuning"][protocol] for protocol in PROTOCOLS}
    return {
        "models": {
            model: {protocol: regrouped(held[protocol], groups) for protocol in PROTOCOLS}
            for model, held in every.items()
        },
        "windows": {
            protocol: {key: held[key] for key in ("windows", "users", "behaviors_measured")}
            for protocol, held in protocols.items()
        },
        "conversations": stage_a.get("conversations_per_epoch"),
        "best_step": stage_b.get("best_step"),
        "pairs": stage_b.get("selected"),
        "seconds": sum(
            done.get("seconds", 0.0)
            for stage in ("backbone", *TUNED, "evaluation")
            if (done := run.done(stage)) is not None and "copied_from" not in done
        ),
    }


def _of(run: Mapping[str, Any] | None, model: str) -> Mapping[str, Any] | None:
    return None if run is None else run["models"][model]


def _variant(variant: Variant, plan: Plan, found: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    names = [plan.run_of[variant.name, seed] for seed in plan.seeds]
    runs = [found[name] for name in names]
    finals = [_of(run, "b_tuning") for run in runs]
    fulls = [_of(found[plan.run_of[FULL, seed]], "b_tuning") for seed in plan.seeds]
    kept = [run["best_step"] == 0 for run in runs if run is not None and run["best_step"] is not None]
    talks = [run["conversations"] for run in runs if run is not None and run["conversations"] is not None]
    return {
        "name": variant.name,
        "title": variant.title,
        "value": variant.value,
        # File names without their folders: where a file lies says nothing about the result.
        "changes": {k: Path(v).name if k.endswith("_path") else v for k, v in variant.changes.items()},
        "is_full": all(plan.run_of[variant.name, seed] == plan.run_of[FULL, seed] for seed in plan.seeds),
        "runs": names,
        "finished": sum(run is not None for run in runs),
        "kept_a_tuned": {"runs": sum(kept), "of": len(kept)},
        "conversations_per_epoch": float(np.mean(talks)) if talks else None,
        "metrics": _statistics(finals),
        "difference": _differences(finals, fulls),
    }


def _statistics(runs: Sequence[Mapping[str, Any] | None]) -> dict[str, dict[str, Any]]:
    return {
        protocol: {
            metric: over_seeds([None if run is None else run[protocol][metric] for run in runs]).to_dict()
            for metric in METRICS
        }
        for protocol in PROTOCOLS
    }


def _differences(
    runs: Sequence[Mapping[str, Any] | None], fulls: Sequence[Mapping[str, Any] | None]
) -> dict[str, dict[str, Any]]:
    """Variant minus full recipe, seed by seed."""

    def gap(run: Mapping[str, Any] | None, full: Mapping[str, Any] | None, protocol: str, metric: str) -> float | None:
        if run is None or full is None or run[protocol][metric] is None or full[protocol][metric] is None:
            return None
        return float(run[protocol][metric] - full[protocol][metric])

    return {
        protocol: {
            metric: over_seeds([gap(r, f, protocol, metric) for r, f in zip(runs, fulls, strict=True)]).to_dict()
            for metric in METRICS
        }
        for protocol in PROTOCOLS
    }
