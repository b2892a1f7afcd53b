"""Does the recipe preserve and improve what a backbone knows of rare behaviors? A controlled experiment on stand-ins.

    python -m benchmarks.controlled --work out/controlled      # results/controlled.json and controlled.md

Two backbones per seed: the pretraining text of one says when, where and next to which behaviors tail behaviors occur,
that of the other only names them. Both go through the same A-Tuning on anchors, and from there through two B-Tunings,
one per confusion rule. All are scored on the same test windows, so differences are paired by seed and by user. The
conversations of stage 1 are small talk that names no tail behavior. An interrupted call can be continued.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.controlled_page import ARMS, MODELS, RULES, TITLES, page, run_name
from edge_behavior.core.candidates import GROUPS, CandidateSet
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ImportOptions
from edge_behavior.data.simulator.simulator import simulate
from edge_behavior.evaluation.evaluate import fit_counters
from edge_behavior.evaluation.protocols import EvaluationWindows, WindowChoice
from edge_behavior.studies.ablation.summary import over_seeds
from edge_behavior.studies.runs.folder import RunsFolder
from edge_behavior.studies.runs.planned import PlannedRun
from edge_behavior.studies.runs.runner import run_plan
from edge_behavior.train.recipe import Recipe, load_recipe
from edge_behavior.train.run.folder import RunFolder, write_json, write_text
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.stages.scoring import stage_scorer
from edge_behavior.train.standin.everyday import EverydayText
from edge_behavior.util.files import new_file

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Metric:
    """A mean over behaviors of the mean over each behavior's windows in a protocol.

    Attributes:
        group: Behaviors to average; `all` averages over windows instead.
        unseen: Only windows whose truth is not in their history.
        probability: Average the log-probability of the truth, in nats, instead of recall.
    """

    protocol: str
    group: str
    unseen: bool = False
    probability: bool = False


# In the order of the tables.
METRICS = {
    "natural accuracy": Metric("natural", "all"),
    "natural head": Metric("natural", "head"),
    "natural medium": Metric("natural", "medium"),
    "natural tail": Metric("natural", "tail"),
    "balanced overall": Metric("balanced", "overall"),
    "balanced head": Metric("balanced", "head"),
    "balanced medium": Metric("balanced", "medium"),
    "balanced tail": Metric("balanced", "tail"),
    "balanced tail, unseen": Metric("balanced", "tail", unseen=True),
    "ln p of balanced tail": Metric("balanced", "tail", probability=True),
    "ln p of balanced tail, unseen": Metric("balanced", "tail", unseen=True, probability=True),
}
RESAMPLES = 2000
TALKS = 4000

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Windows:
    """The test windows all models are scored on.

    Attributes:
        targets: [n] event indices, both protocols together.
        members: Per protocol a mask [n].
        truth: [n] codes.
        user: [n] dense user codes.
        unseen: [n] whether the truth is missing from the window's history.
    """

    targets: Ints
    members: Mapping[str, NDArray[np.bool_]]
    truth: Ints
    user: Ints
    unseen: NDArray[np.bool_]

    @classmethod
    def draw(cls, table: EventTable, length: int, choice: WindowChoice) -> Windows:
        found = EvaluationWindows.draw("both", table, length, choice)
        targets = found.targets
        truth = table.behavior[targets].astype(np.int64)
        past = table.behavior[targets[:, None] - np.arange(1, length + 1)]
        _, user = np.unique(table.user_of(targets), return_inverse=True)
        members = {p.name: np.isin(targets, p.targets) for p in found.protocols}
        return cls(targets, members, truth, user.astype(np.int64), ~(past == truth[:, None]).any(1))


def make_data(work: Path, users: int, days: int, seed: int) -> Dataset:
    """The simulated log as a dataset, created on the first call."""
    folder = work / "data"
    if not (folder / "dataset.json").is_file():
        name = f"synth(users={users}, days={days}, seed={seed})"
        with tempfile.TemporaryDirectory() as temporary:
            log = Path(temporary) / "log.csv"
            simulate(users, days, seed, log)
            import_log(log, "csv", folder, ImportOptions(seed=seed, source_name=name))
    return Dataset.open(folder)


def make_talk(work: Path, candidates: CandidateSet) -> Path:
    """Conversations for stage 1 that name no tail behavior, the same for both arms."""
    path = work / "talk.jsonl"
    groups = candidates.groups()
    tail = [label for label, group in zip(candidates.labels, groups, strict=True) if group == "tail"]
    text = EverydayText(candidates.labels, (), 0, tail)
    lines = []
    for _ in range(TALKS):
        turns = [{"from": "human" if role == "user" else "gpt", "value": said} for role, said in text.small_talk()]
        lines.append(json.dumps({"conversations": turns}, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")
    return path


def recipe_of(arm: str, rule: str, seed: int, talk: Path, settings: Sequence[str]) -> Recipe:
    overrides = [
        f"name=controlled-{arm}-{rule}", "method=two-stage", f"seed={seed}", "threads=1", f"a_tuning.aux_path={talk}",
        f"backbone.pretrain_tail_contexts={'true' if arm == 'with' else 'false'}", f"b_tuning.confusion={rule}",
        # The runs' own evaluation is not reported; every model is scored below, on common windows.
        "evaluation.limit=20", *settings,
    ]  # fmt: skip
    return load_recipe("tiny", overrides)


def score(work: Path, dataset: Dataset, windows: Windows, arm: str, model: str, seed: int) -> dict[str, Any]:
    """[n] predicted codes and log-probabilities of the truth of one model; cached in a file."""
    path = work / "scores" / f"{arm}-{model}-seed{seed}.npz"
    if not path.is_file():
        run = RunFolder.open(work / "runs" / run_name(arm, model if model in RULES else RULES[0], seed))
        recipe = run.recipe
        stage = "b_tuning" if model in RULES else model
        table = dataset.events("test")
        scorer = stage_scorer(RunModels(run, recipe.backbone), stage, table, recipe, 0, path.stem)
        scores = log_softmax(scorer(windows.targets))
        path.parent.mkdir(exist_ok=True)
        with new_file(path, replace=True) as temporary, temporary.open("wb") as file:
            own = scores[np.arange(len(windows.truth)), windows.truth]
            np.savez(file, predicted=scores.argmax(1).astype(np.int64), own=own, targets=windows.targets)
    with np.load(path, allow_pickle=False) as held:
        if not np.array_equal(held["targets"], windows.targets):
            raise SystemExit(f"{path} was scored on other windows; remove {path.parent}")
        return {"predicted": held["predicted"], "own": held["own"]}


class Measure:
    """Every metric of any predictions of the windows: point estimate and bootstrap resamples of users."""

    def __init__(self, windows: Windows, groups: Sequence[str], seed: int = 0) -> None:
        self._windows, self._groups = windows, np.array(groups)
        self._users = int(windows.user.max()) + 1
        share = np.full(self._users, 1 / self._users)
        drawn = np.random.default_rng(seed).multinomial(self._users, share, size=RESAMPLES).astype(np.float64)
        self._weights = np.concatenate([np.ones((1, self._users)), drawn])

    def __call__(self, predicted: Ints, own: Floats | None) -> dict[str, Floats]:
        """Per metric [1 + resamples], the point estimate first; without `own` those of recall only.

        Args:
            predicted: [n] codes.
            own: [n] log-probabilities of the truth.
        """
        w, size = self._windows, len(self._groups)
        shape = (self._users, size)
        found = {}
        for name, metric in METRICS.items():
            if metric.probability and own is None:
                continue
            mask = self._mask(metric)
            cell = w.user[mask] * size + w.truth[mask]
            score = own[mask] if metric.probability and own is not None else predicted[mask] == w.truth[mask]
            support = self._weights @ np.bincount(cell, minlength=self._users * size).reshape(shape).astype(np.float64)
            total = self._weights @ np.bincount(cell, weights=score, minlength=self._users * size).reshape(shape)
            if metric.group == "all":
                found[name] = total.sum(1) / support.sum(1)
                continue
            inside = np.ones(size, dtype=np.bool_) if metric.group == "overall" else self._groups == metric.group
            support, total = support[:, inside], total[:, inside]
            means = np.divide(total, support, out=np.full_like(total, np.nan), where=support > 0)
            found[name] = np.nanmean(means, axis=1)
        return found

    def _mask(self, metric: Metric) -> NDArray[np.bool_]:
        inside = self._windows.members[metric.protocol]
        return inside & self._windows.unseen if metric.unseen else inside

    def support(self) -> dict[str, dict[str, int]]:
        """Windows, behaviors and users behind every metric."""
        found = {}
        for name, metric in METRICS.items():
            w, mask = self._windows, self._mask(metric)
            if metric.group in GROUPS:
                mask = mask & (self._groups[w.truth] == metric.group)
            found[name] = {
                "windows": int(mask.sum()),
                "behaviors": len(np.unique(w.truth[mask])),
                "users": len(np.unique(w.user[mask])),
            }
        return found


def contrasts() -> dict[str, tuple[tuple[str, str], tuple[str, str]]]:
    """Paired differences: title → ((arm, model), minus (arm, model))."""
    found = {}
    for arm in ARMS:
        found[f"{arm}: A-Tuning − untuned"] = ((arm, "a_tuning"), (arm, "untuned"))
        for rule in RULES:
            found[f"{arm}: B-Tuning ({rule}) − A-Tuning"] = ((arm, rule), (arm, "a_tuning"))
        for rule in RULES:
            found[f"{arm}: B-Tuning ({rule}) − untuned"] = ((arm, rule), (arm, "untuned"))
        found[f"{arm}: intended − as-printed"] = ((arm, RULES[0]), (arm, RULES[1]))
    for model in MODELS:
        found[f"with − without: {TITLES[model]}"] = (("with", model), ("without", model))
    return found


def analyse(work: Path, dataset: Dataset, windows: Windows, seeds: Sequence[int], length: int) -> dict[str, Any]:
    groups = dataset.candidates.groups()
    measure = Measure(windows, groups)
    measured: dict[tuple[str, str], list[dict[str, Floats]]] = {}
    levels: dict[str, Any] = {}
    for arm in ARMS:
        for model in MODELS:
            held = [score(work, dataset, windows, arm, model, seed) for seed in seeds]
            measured[arm, model] = [measure(h["predicted"], h["own"]) for h in held]
            row: dict[str, Any] = {
                name: asdict(over_seeds([float(m[name][0]) for m in measured[arm, model]])) for name in METRICS
            }
            for protocol, mask in windows.members.items():
                row[f"{protocol} nll"] = asdict(over_seeds([float(-h["own"][mask].mean()) for h in held]))
            levels.setdefault(arm, {})[model] = row
    differences = {
        title: {name: _paired(measured[one], measured[two], name) for name in METRICS}
        for title, (one, two) in contrasts().items()
    }
    table = dataset.events("test")
    counters = fit_counters(dataset, length)
    counted = {
        name: {
            metric: float(values[0])
            for metric, values in measure(counters.scores(name, table, windows.targets).argmax(1), None).items()
        }
        for name in ("markov_1", "place_hour_backoff")
    }
    return {"support": measure.support(), "levels": levels, "differences": differences, "counters": counted}


def _paired(one: Sequence[Mapping[str, Floats]], two: Sequence[Mapping[str, Floats]], name: str) -> dict[str, Any]:
    gaps = np.stack([a[name] - b[name] for a, b in zip(one, two, strict=True)])
    over = over_seeds([float(gap) for gap in gaps[:, 0]])
    drawn = gaps[:, 1:].mean(0)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {**asdict(over), "interval_users": [float(low), float(high)]}


def stages(work: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """What each run's stages reported: best steps, losses, seconds."""
    found: dict[str, Any] = {}
    for arm in ARMS:
        for rule in RULES:
            for seed in seeds:
                run = RunFolder.open(work / "runs" / run_name(arm, rule, seed))
                done = {stage: run.done(stage) or {} for stage in ("backbone", "a_tuning", "b_tuning")}
                b = done["b_tuning"]
                found[run.path.name] = {
                    "pretrain_tokens": done["backbone"]["pretrain_tokens"],
                    "pretrain_loss": done["backbone"]["pretrain_loss"],
                    "parameters": done["backbone"]["parameters"],
                    "a_tuning_steps": done["a_tuning"]["steps"],
                    "a_tuning_best_step": done["a_tuning"]["best_step"],
                    "conversations_per_epoch": done["a_tuning"]["conversations_per_epoch"],
                    "shared": [stage for stage in ("backbone", "a_tuning") if "copied_from" in done[stage]],
                    "pairs": b["selected"],
                    "b_tuning_steps": b["steps"],
                    "b_tuning_best_step": b["best_step"],
                    "validation": b["validation"],
                    "pool_accuracy": b["pool_accuracy"],
                    "within_category_mistakes": b["within_category_mistakes"],
                    "shared_by_both_rules": b["shared_by_both_rules"],
                    "seconds": {stage: held.get("seconds") for stage, held in done.items()},
                }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out/controlled"), help="runs and scores; kept")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of controlled.json and controlled.md")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--days", type=int, default=21)
    parser.add_argument("--per-user", type=int, default=10, help="natural test windows per user")
    parser.add_argument("--per-behavior", type=int, default=30, help="balanced test windows per behavior")
    parser.add_argument("--set", action="append", default=[], help="override a field of the recipe")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    dataset = make_data(options.work, options.users, options.days, seed=0)
    talk = make_talk(options.work, dataset.candidates)
    seeds = list(options.seeds)
    runs = [
        PlannedRun(run_name(arm, rule, seed), seed, recipe_of(arm, rule, seed, talk, options.set))
        for seed in seeds
        for arm in ARMS
        for rule in RULES
    ]
    failed = run_plan(runs, dataset.path, RunsFolder(options.work), "controlled.py")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; see {options.work / 'errors'}")
    table = dataset.events("test")
    length = runs[0].recipe.layout.history_length
    windows = Windows.draw(table, length, WindowChoice(options.per_user, options.per_behavior, None, 0))
    flags = "".join(f" --set {s}" for s in options.set)
    changed = f" --seeds {' '.join(map(str, seeds))} --users {options.users} --days {options.days}"
    found = analyse(options.work, dataset, windows, seeds, length)
    per_run = stages(options.work, seeds)
    one = next(iter(per_run.values()))
    text = (
        f"{dataset.info.source.name}: {len(dataset.candidates)} behaviors, "
        f"{', '.join(f'{g} {dataset.candidates.groups().count(g)}' for g in GROUPS)}; "
        f"{dataset.info.splits['test'].users} test users. Recipe `tiny`, one thread; the stand-ins have "
        f"{one['parameters'] / 1e6:.2f} M parameters and read {one['pretrain_tokens'] / 1e6:.2f} M tokens. "
        "Per seed: two backbones (their text has the tail's contexts, or only names the tail), one A-Tuning each, and "
        "from each of those two B-Tunings. Simulator and text are both synthetic: the results show how the method "
        "behaves on such stand-ins, and nothing about pretrained models."
    )
    result = {
        "command": f"python -m benchmarks.controlled{changed} --per-user {options.per_user} "
        f"--per-behavior {options.per_behavior}{flags}",
        "setup": {
            "text": text,
            "verdict": "Brackets: 95 % interval over test users, for these backbones. “Up” and “down” only where it "
            "excludes 0 and every seed points the same way. An interval over so few seeds is wide (first brackets of "
            "the table); nothing is corrected for the number of comparisons.",
            "dataset": {"name": dataset.info.source.name, "splits": dataset.info.to_dict()["splits"]},
        },
        "seeds": seeds,
        **found,
        "runs": per_run,
        "recipe": recipe_of("with", RULES[0], seeds[0], Path("talk.jsonl"), options.set).model_dump(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "controlled.json", result)
    text = page(result)
    write_text(options.out / "controlled.md", text)
    print(text)


if __name__ == "__main__":
    main()
