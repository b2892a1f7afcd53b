"""`edgeb compare --dry-run`: what is left to train and score, and how long tuned models take at most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.studies.compare.contenders import Bench, Contender, Tuned
from edge_behavior.studies.compare.plan import entries
from edge_behavior.studies.compare.windows import targets_of
from edge_behavior.studies.runs.planned import PlannedRun, identity
from edge_behavior.studies.runs.runner import planned_work, stages_left
from edge_behavior.train.plan.plan import Plan, Planner
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.stage_list import TUNED

_B_TUNING = TUNED[-1]


@dataclass(frozen=True)
class _Left:
    """A run of a system that is left to do, and how many windows it scores."""

    system: str
    run: PlannedRun
    windows: int


def dry_run(bench: Bench, contenders: Mapping[str, Contender]) -> dict[str, Any]:
    """What would be trained and scored: entries, runs by name, stages to train, windows, and time (None: nothing)."""
    asked, folder = bench.asked, bench.folder
    found, left, others, rates = [], list[_Left](), list[str](), folder.rates()
    for entry in entries(asked):
        contender = contenders[entry.system]
        missing = {
            s: [w for w in entry.sets if not folder.predictions(entry.name, s, w).is_file()] for s in entry.seeds
        }
        seeds = [seed for seed, sets in missing.items() if sets]
        found.append({"system": entry.name, "seeds": list(entry.seeds), "left": seeds})
        if not seeds:
            continue
        if not isinstance(contender, Tuned):
            others.append(entry.name)
            continue
        rate = rates.get(entry.system, {}).get("rate")
        if rate is None and entry.point is None:
            tried = [run for _, run in contender.rate_runs(asked)]
            left += [_Left(entry.system, run, len(bench.drawn.validation)) for run in tried]
        for seed in seeds:
            windows = sum(len(targets_of(name, bench.drawn)) for name in missing[seed])
            left.append(_Left(entry.system, contender.planned(asked, seed, entry.point, rate), windows))
    runs = [one.run for one in left]
    # A rate's run ends earlier: what it has done counts, stage by stage.
    work = planned_work(runs, asked.fingerprint, folder, _B_TUNING)
    return {
        "entries": found,
        "runs": [run.name for run in runs],
        "stages": work.to_dict()["stages"],
        "windows": {"test": len(bench.drawn.test), "validation": len(bench.drawn.validation)},
        "time": _time(bench, left, others) if left else None,
    }


def _time(bench: Bench, left: Sequence[_Left], others: Sequence[str]) -> dict[str, Any]:
    """Seconds at most by system: `training`, `pool` and `scoring`; a stage in common counts where it comes first.

    `refused` has the systems that no time could be estimated for, and why.
    """
    stages = {
        run.name: stages
        for run, stages in stages_left([one.run for one in left], bench.asked.fingerprint, bench.folder, _B_TUNING)
    }
    plans, seconds, refused = _plans(bench, left), dict[str, dict[str, float]](), dict[str, str]()
    measured = set()
    for one in left:
        plan = plans[_shape(one.run.recipe)]
        if isinstance(plan, EdgebError) or plan.times is None:
            refused[one.system] = str(plan if isinstance(plan, EdgebError) else plan.refusal)
            continue
        spent = seconds.setdefault(one.system, dict.fromkeys(("training", "pool", "scoring"), 0.0))
        trained = stages.get(one.run.name, ())
        spent["training"] += sum(plan.times.stages[stage] for stage in trained)
        spent["pool"] += plan.times.stages["scoring"] if _B_TUNING in trained else 0.0
        spent["scoring"] += one.windows * plan.times.window
        measured.add(plan.times.measured_on)
    systems = {
        name: {**{part: round(value, 1) for part, value in spent.items()}, "total": round(sum(spent.values()), 1)}
        for name, spent in seconds.items()
        if name not in refused
    }
    return {
        "systems": systems,
        "total": round(sum(spent["total"] for spent in systems.values()), 1),
        "measured_on": sorted(measured),
        "refused": refused,
        "not_estimated": list(others),
    }


def _plans(bench: Bench, left: Sequence[_Left]) -> dict[str, Plan | EdgebError]:
    """A plan per shape. Those that train come first: their passes are the ones that speed is measured on."""
    planner, found = Planner(bench.dataset), dict[str, Plan | EdgebError]()
    shapes = {_shape(one.run.recipe): one.run.recipe for one in left}
    for shape, recipe in sorted(shapes.items(), key=lambda held: held[1].a_tuning.method == "none"):
        try:
            found[shape] = planner.plan(recipe.model_copy(update={"seed": bench.asked.recipe.seed}))
        except EdgebError as error:
            found[shape] = error
    return found


def _shape(recipe: Recipe) -> str:
    """What two recipes have in common that take the same time: all but name, seed and learning rates."""
    stages = {
        stage: getattr(recipe, stage).model_copy(update={"learning_rate": 1.0}) for stage in ("a_tuning", "b_tuning")
    }
    return identity(recipe.model_copy(update={"seed": 0, **stages}))
