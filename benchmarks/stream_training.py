"""What a loss at every event buys over one label per prompt: the same log, backbone, adapter and seeds.

    edgeb data synth --users 2000 --days 28 --seed 1 --out DATA
    python -m benchmarks.stream_training --data DATA --recipe tiny --work FOLDER \
        --out benchmarks/results/stream_training-synth

Both sides see the same text: a row of the `stream` layout. `dense` rows are the recipe's own random stretches with a
loss at every anchor behavior from the second event on. `last` rows are whole windows, as a prediction sees them: the
history and the next event, with a loss on that one's label only. `last` runs with as many optimizer steps and
sequences as `dense` had, and with as many tokens where that is something else. As many supervised targets would take
`last` some twenty times as long, so that pair is run on fewer targets: `dense, short` and `last, equal targets`. A row
holds some twenty targets, so with equal batches `dense, short` takes a twentieth of the steps; `dense, short, one row a
step` takes as many as its rows allow. `dense, a tenth of the tokens` has that many of `last, equal targets`, two rows a
step, and so more targets than it. What learning rate suits a training depends on its number of steps, so every arm
is trained at each of `--rates`, and the one that the validation windows favour counts; one that diverges does not.

The stand-in backbone is pretrained once per seed. FOLDER keeps it and every finished run, so an interrupted
measurement goes on where it was. Every run is evaluated four times on the same validation windows and keeps its best
weights. Seconds are of the whole training call on one thread, validation included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import set_seed

from benchmarks.stream_page import MEASURES, page
from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import eligible, natural_windows
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.metrics import Metrics, Outcome, behavior_metrics
from edge_behavior.evaluation.protocols import Protocol, WindowChoice, protocols
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.train.recipe import Recipe, load_recipe
from edge_behavior.train.rows.batches import batched
from edge_behavior.train.rows.lazy import IGNORED, Row, joined
from edge_behavior.train.rows.samples import stream_rows, supervised_targets, target_mask
from edge_behavior.train.rows.windows import WindowSet, draw_formats
from edge_behavior.train.stages.scoring import ScoringPass, score_windows
from edge_behavior.train.stages.sft import train_sft
from edge_behavior.train.stages.tuning import Tuning
from edge_behavior.train.standin.model import build_standin
from edge_behavior.train.trainer.backbone import load_model, load_tokenizer
from edge_behavior.util.files import new_file

EVALUATIONS = 4
RESAMPLES = 2000
# Two `last` arms whose sequences differ by less than this are one.
SAME = 0.05
# Read as: the first minus the second.
PAIRS = (
    ("dense", "untuned"),
    ("dense", "last, equal steps"),
    ("dense", "last, equal tokens"),
    ("dense, short", "last, equal targets"),
    ("dense, short, one row a step", "last, equal targets"),
    ("dense, a tenth of the tokens", "last, equal targets"),
    ("dense", "last, equal targets"),
)
SHORT = {"dense, short", "dense, short, one row a step", "dense, a tenth of the tokens", "last, equal targets"}
# Log-probabilities [n, B] by arm and protocol.
Scores = dict[str, dict[str, NDArray[np.float64]]]
# What a training took, and its scores by protocol.
Run = tuple[dict[str, Any], dict[str, NDArray[np.float64]]]


def dense_rows(table: EventTable, encoder: PromptEncoder, recipe: Recipe) -> list[Row]:
    """The recipe's own rows, all epochs, cut to whole batches."""
    stage = recipe.a_tuning
    mask = target_mask(stage, table)
    rows = [
        row
        for epoch in range(int(np.ceil(stage.epochs)))
        for row in stream_rows(table, encoder, stage, mask, stage.max_targets, recipe.seed + 1000 * epoch)
    ]
    return rows[: len(rows) // stage.batch_size * stage.batch_size]


def last_rows(table: EventTable, encoder: PromptEncoder, recipe: Recipe, count: int, seed: int) -> list[Row]:
    """`count` whole windows of random anchor events as stream rows, the loss on the last label only.

    Windows repeat only once all have been used.
    """
    length = encoder.layout.history_length
    windows = eligible(table, length)
    windows = windows[target_mask(recipe.a_tuning, table)[table.behavior[windows]]]
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(windows) for _ in range(-(-count // len(windows)))]
    rows = []
    for target in np.concatenate(rounds)[:count]:
        stretch = encoder.stretch(table.between(target - length, target + 1))
        start, stop = stretch.targets[-1]
        labels = [IGNORED] * len(stretch.ids)
        labels[start:stop] = stretch.ids[start:stop]
        rows.append({"input_ids": stretch.ids, "labels": labels})
    return rows


def past_events(rows: list[Row], encoder: PromptEncoder) -> NDArray[np.int64]:
    """How many events stand before each supervised one in its row. The terminator ends every event and nothing else."""
    end = encoder.terminator_ids[-1]
    static, found = len(encoder.static_ids), []
    for row in rows:
        ends = np.flatnonzero(np.array(row["input_ids"][static:]) == end) + static
        carries = np.array(row["labels"])[ends] != IGNORED
        found.append(np.flatnonzero(carries))
    return np.concatenate(found)


def first_targets(rows: list[Row], encoder: PromptEncoder, targets: int, batch_size: int) -> list[Row]:
    """The first rows, in whole batches, that carry `targets` supervised events."""
    carried = np.cumsum([supervised_targets([row], encoder) for row in rows])
    batches = -(-(int(np.searchsorted(carried, targets)) + 1) // batch_size)
    return rows[: batches * batch_size]


def tokens_at_most(rows: list[Row], tokens: int, batch_size: int) -> list[Row]:
    """The first rows, in whole batches, that are not longer together."""
    lengths = np.cumsum([len(row["input_ids"]) for row in rows])
    return rows[: int(np.searchsorted(lengths, tokens, side="right")) // batch_size * batch_size]


def tokens_of(rows: list[Row]) -> int:
    return sum(len(row["input_ids"]) for row in rows)


class Arms:
    """One seed: its backbone, rows, training runs and scores."""

    def __init__(self, dataset: Dataset, recipe: Recipe, work: Path, choice: WindowChoice) -> None:
        self.dataset, self.recipe, self.work = dataset, recipe, work
        self.train, self.validation, self.test = (dataset.events(s) for s in ("train", "validation", "test"))
        backbone = digest(dataset.fingerprint, recipe.seed, recipe.backbone.model_dump(), recipe.layout.model_dump())
        self.backbone = work / f"backbone-{recipe.seed}-{backbone}"
        self.done = work / f"arms-{recipe.seed}-{digest(dataset.fingerprint, recipe.model_dump(), vars(choice))}"
        self.done.mkdir(exist_ok=True)
        if not self.backbone.exists():
            building = work / f"building-{recipe.seed}"
            shutil.rmtree(building, ignore_errors=True)
            build_standin(recipe, dataset.candidates, dataset.places, building, building / "logs")
            shutil.rmtree(building / "logs", ignore_errors=True)
            building.rename(self.backbone)
        self.tokenizer = load_tokenizer(str(self.backbone))
        self.encoder = encoder_for(
            self.tokenizer, recipe.layout.layout(dataset.has_places, self.tokenizer), dataset.candidates
        )
        # The windows are those of every seed.
        self.protocols = protocols("both", self.test, recipe.layout.history_length, choice)
        self.held_out = self._validation_rows()

    def _validation_rows(self) -> list[Row]:
        length = self.encoder.layout.history_length
        targets = natural_windows(self.validation, length, limit=self.recipe.evaluation.validation_targets)
        mask = target_mask(self.recipe.a_tuning, self.train)
        rows = []
        for target in targets[mask[self.validation.behavior[targets]]]:
            stretch = self.encoder.stretch(self.validation.between(target - length, target + 1))
            start = stretch.targets[-1][0]
            rows.append({"input_ids": stretch.ids, "labels": [IGNORED] * start + stretch.ids[start:]})
        return rows

    def score(self, model: Any) -> dict[str, NDArray[np.float64]]:
        """[n, B] log-probabilities per protocol."""
        union = np.unique(np.concatenate([p.targets for p in self.protocols]))
        windows = WindowSet(self.test, union, draw_formats(self.encoder, len(union), 0))
        scores = score_windows(model, self.encoder, windows, ScoringPass("test")).log_probs
        return {p.name: scores[np.searchsorted(union, p.targets)] for p in self.protocols}

    def run(self, name: str, rows: list[Row], batch: int, rate: float) -> Run:
        """Train one arm with `batch` rows a step; what it took, and its scores."""
        recipe = self.recipe
        steps = len(rows) // batch
        floor = rate * recipe.a_tuning.min_learning_rate / recipe.a_tuning.learning_rate
        update = {
            "patience": EVALUATIONS + 1, "evals_per_epoch": 1.0, "batch_size": batch, "learning_rate": rate,
            "min_learning_rate": floor,
        }  # fmt: skip
        stage = recipe.a_tuning.model_copy(update=update)
        recipe = recipe.model_copy(update={"a_tuning": stage})
        lengths = [len(row["input_ids"]) for row in rows]
        ordered = batched(rows, lengths, stage.batch_size, recipe.seed, by_length=True)
        folder = self.done / "training"
        shutil.rmtree(folder, ignore_errors=True)
        set_seed(recipe.seed)
        model = load_model(str(self.backbone), recipe.backbone)
        data, held_out = joined([ordered]), joined([self.held_out])
        began, cpu = time.perf_counter(), time.process_time()
        tuning = Tuning(recipe, "a_tuning", max(1, steps // EVALUATIONS), steps, folder, folder / "logs")
        result = train_sft(model, self.tokenizer, data, held_out, tuning)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        targets, tokens, past = supervised_targets(rows, self.encoder), tokens_of(rows), past_events(rows, self.encoder)
        if len(past) != targets:
            raise SystemExit(f"{name}: {len(past)} events carry a loss, {targets} labels do")
        took = {
            "learning_rate": rate,
            "optimizer_steps": result["steps"],
            "sequences": len(rows),
            "targets": targets,
            "tokens": tokens,
            "tokens_per_target": tokens / targets,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "best_step": result["best_step"],
            "validation_loss": result["best_validation_loss"],
            "past_events": np.bincount(past).tolist(),
        }
        return took, self.score(model)

    def kept(self, name: str, make: Callable[[], Run]) -> Run:
        """What `make` gives, from the folder where it was made before."""
        path = self.done / f"{digest(name)}.npz"
        if not path.exists():
            took, scores = make()
            with new_file(path, replace=True) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, took=json.dumps(took), **scores)
        with np.load(path) as held:
            return json.loads(str(held["took"])), {p.name: held[p.name] for p in self.protocols}


def digest(*parts: Any) -> str:
    """A short name for settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def arms_of_seed(arms: Arms, short_targets: int, rates: list[float]) -> tuple[dict[str, dict[str, Any]], Scores]:
    recipe, batch = arms.recipe, arms.recipe.a_tuning.batch_size
    dense = dense_rows(arms.train, arms.encoder, recipe)
    short = first_targets(dense, arms.encoder, short_targets, batch)
    targets = supervised_targets(short, arms.encoder)
    per_row = tokens_of(last_rows(arms.train, arms.encoder, recipe, 400, recipe.seed)) / 400
    last_tokens = per_row * (targets // batch * batch)
    same_tokens = round(tokens_of(dense) / per_row / batch) * batch

    def last(count: int) -> Callable[[], list[Row]]:
        return lambda: last_rows(arms.train, arms.encoder, recipe, count, recipe.seed)

    # Rows, and how many of them are one step.
    plan: dict[str, tuple[Callable[[], list[Row]], int]] = {
        "dense": (lambda: dense, batch),
        "last, equal steps": (last(len(dense)), batch),
        "last, equal tokens": (last(same_tokens), batch),
        "dense, short": (lambda: short, batch),
        "dense, short, one row a step": (lambda: short, 1),
        "dense, a tenth of the tokens": (lambda: tokens_at_most(dense, int(last_tokens / 10), 2), 2),
        "last, equal targets": (last(targets // batch * batch), batch),
    }
    if abs(same_tokens - len(dense)) / len(dense) < SAME:
        del plan["last, equal tokens"]
    took: dict[str, dict[str, Any]] = {}
    _, untuned = arms.kept("untuned", lambda: ({}, arms.score(load_model(str(arms.backbone), recipe.backbone))))
    scores = {"untuned": untuned}
    for name, (rows, per_step) in plan.items():
        print(f"seed {recipe.seed}: {name}", flush=True)
        made = rows()
        tried = []
        for rate in rates:
            key = f"{name}, {short_targets}, {rate}" if name in SHORT else f"{name}, {rate}"
            try:
                tried.append(arms.kept(key, partial(arms.run, name, made, per_step, rate)))
            except EdgebError as error:
                # A training that diverges is stopped; its rate is out.
                print(error.message, flush=True)
                continue
            print(json.dumps({k: v for k, v in tried[-1][0].items() if k != "past_events"}), flush=True)
        took[name], scores[name] = min(tried, key=lambda run: run[0]["validation_loss"])
        took[name]["validation_loss_by_rate"] = {
            f"{run['learning_rate']:g}": run["validation_loss"] for run, _ in tried
        }
    return took, scores


def drawn(outcome: Outcome, groups: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """Each measure as [RESAMPLES] draws over users; two calls with the same users draw the same users."""
    size = len(groups)
    names, user = np.unique(outcome.users, return_inverse=True)
    flat = user * size + outcome.truth
    weights = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    support = weights @ np.bincount(flat, minlength=len(names) * size).reshape(len(names), size)
    right = outcome.predicted == outcome.truth
    hits = weights @ np.bincount(flat[right], minlength=len(names) * size).reshape(len(names), size)
    recall = np.where(support > 0, hits / np.maximum(support, 1), np.nan)
    found = {"accuracy": hits.sum(1) / support.sum(1), "overall": np.nanmean(recall, 1)}
    for group in GROUPS:
        part = recall[:, np.array(groups) == group]
        measured = (~np.isnan(part)).any(1)
        means = np.full(RESAMPLES, np.nan)
        means[measured] = np.nanmean(part[measured], 1)
        found[group] = means
    return found


def compared(arms: Arms, scores: list[Scores]) -> dict[str, Any]:
    """Metrics per protocol and arm, seeds pooled, and each arm's paired difference to `dense`."""
    groups = arms.dataset.candidates.groups(anchor=arms.recipe.a_tuning.anchor_threshold)
    labels = arms.dataset.candidates.labels
    found: dict[str, Any] = {}
    for p in arms.protocols:
        outcome = partial(_outcome, arms.test, p)
        names = list(scores[0])
        draws = {name: drawn(outcome(name, scores), groups) for name in names}
        whole = {name: behavior_metrics(outcome(name, scores), labels, groups, 0) for name in names}
        value = {name: _five(whole[name]) for name in names}
        found[p.name] = {
            "windows": len(p.targets),
            "users": len(np.unique(arms.test.user_of(p.targets))),
            "arms": {
                name: {
                    **{m: {"value": value[name][m], "interval": _interval(draws[name][m])} for m in MEASURES},
                    "nll": whole[name].nll,
                    "per_seed": [_five(behavior_metrics(outcome(name, [one]), labels, groups, 0)) for one in scores],
                }
                for name in names
            },
            "differences": [
                {
                    "first": one,
                    "second": other,
                    **{
                        m: {
                            "value": None if value[one][m] is None else value[one][m] - value[other][m],
                            "interval": _interval(draws[one][m] - draws[other][m]),
                        }
                        for m in MEASURES
                    },
                }
                for one, other in PAIRS
                if one in names and other in names
            ],
        }
    return found


def _outcome(table: EventTable, p: Protocol, name: str, scores: list[Scores]) -> Outcome:
    """An arm's scores of several seeds as one outcome over the same users."""
    truth, users = table.behavior[p.targets].astype(np.int64), table.user_of(p.targets)
    stacked = np.concatenate([of_seed[name][p.name] for of_seed in scores])
    return Outcome(stacked, np.tile(truth, len(scores)), np.tile(users, len(scores)))


def _five(metrics: Metrics) -> dict[str, Any]:
    return {"accuracy": metrics.weighted_recall, **{name: metrics.value(name) for name in MEASURES[1:]}}


def _interval(draws: NDArray[np.float64]) -> list[float] | None:
    kept = draws[~np.isnan(draws)]
    return [float(x) for x in np.percentile(kept, [2.5, 97.5])] if len(kept) else None


def past_summary(counts: list[int], history: int) -> dict[str, Any]:
    """How many events a supervised event has before it."""
    values = np.repeat(np.arange(len(counts)), counts)
    quartiles = [int(x) for x in np.percentile(values, [5, 25, 50, 75, 95])]
    return {
        "mean": float(values.mean()),
        "percentiles_5_25_50_75_95": quartiles,
        "fewer_than_prediction": float((values < history).mean()),
        "more_than_prediction": float((values > history).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", default="simulated log", help="what the page calls the data")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--short-targets", type=int, default=5000, help="supervised targets of the equal-targets pair")
    rates = [0.0005, 0.001, 0.002, 0.004, 0.008]
    parser.add_argument("--rates", type=float, nargs="+", default=rates, help="learning rates that arms are tried at")
    parser.add_argument("--per-user", type=int, default=5, help="natural test windows of each user")
    parser.add_argument("--per-behavior", type=int, default=15, help="balanced test windows")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    dataset = Dataset.open(args.data)
    choice = WindowChoice(args.per_user, args.per_behavior, None, 0)
    took: dict[str, list[dict[str, Any]]] = {}
    scores: list[Scores] = []
    for position, seed in enumerate(args.seeds):
        recipe = load_recipe(args.recipe, ["method=two-stage", *args.set, f"seed={seed}"])
        arms = Arms(dataset, recipe, args.work, choice)
        of_seed, scored = arms_of_seed(arms, args.short_targets, args.rates)
        scores.append(scored)
        for name, run in of_seed.items():
            took.setdefault(name, []).append(run)
        counts = [run["past_events"] for run in took["dense"]]
        seen = np.sum([np.pad(c, (0, max(map(len, counts)) - len(c))) for c in counts], axis=0)
        flags = [*(f"--set {text}" for text in args.set), "--seeds", *map(str, args.seeds)]
        flags += [f"--short-targets {args.short_targets}", "--rates", *map(str, args.rates)]
        flags.append(f"--per-user {args.per_user}")
        document = {
            "command": f"python -m benchmarks.stream_training --data DATA --recipe {args.recipe} {' '.join(flags)} "
            f"--per-behavior {args.per_behavior} --work FOLDER --out OUT",
            "dataset": args.name,
            "fingerprint": dataset.fingerprint,
            "seeds": args.seeds[: position + 1],
            "recipe": recipe.model_dump(),
            "parameters": load_model(str(arms.backbone), recipe.backbone).num_parameters(),
            "history_length": arms.encoder.layout.history_length,
            "machine": f"{platform.machine()}, one thread, torch {torch.__version__}",
            "took": took,
            "past_events": past_summary([int(c) for c in seen], arms.encoder.layout.history_length),
            "evaluation": compared(arms, scores),
        }
        # After every seed, so that an interrupted measurement leaves the seeds that are done.
        args.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(page(document), encoding="utf-8")
    print(page(document))


if __name__ == "__main__":
    main()
