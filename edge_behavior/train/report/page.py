"""RUN/report.html: what a training run did and reached, as one self-contained file.

Collects numbers and plots for the template; measures nothing. Labels and places come from a log, so the template
escapes everything but the plots, which escape their own text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.prompts import DAYS
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.metrics import Metrics
from edge_behavior.evaluation.protocols import PROTOCOLS
from edge_behavior.evaluation.results import RunMetrics
from edge_behavior.evaluation.tables import (
    COLUMNS,
    NAMES,
    SystemRow,
    protocol_caption,
    result_rows,
    shown_columns,
    stage_effects,
)
from edge_behavior.train.report import plots
from edge_behavior.train.report.plots import Estimate, Series
from edge_behavior.train.report.summary import (
    b_tuning_sentence,
    backbone_sentence,
    changed_settings,
    dataset_rows,
    split_sentence,
    templates,
    units_of,
    verdict,
    versions,
)
from edge_behavior.train.run.folder import RunFolder, write_text
from edge_behavior.train.run.metrics import read_metrics
from edge_behavior.train.stage_list import MODELS, TUNED
from edge_behavior.util.numbers import difference, number

_COUNTER = "place_hour_backoff"
_EXAMPLES = 20
_MOVERS = 5
_LAST_SHOWN = 6
_TIMED = ("backbone", *TUNED, "evaluation")

# What a stage left in run.json; a line of a trainer's log or of pairs.jsonl.
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Tile:
    """A headline number: the final model's, the untuned backbone's and the place+hour counter's."""

    title: str
    value: str
    untuned: str
    counter: str


@dataclass(frozen=True)
class ResultTable:
    """The table of one protocol."""

    protocol: str
    columns: list[str]
    rows: list[SystemRow]
    caption: str


@dataclass(frozen=True)
class BehaviorRow:
    """One behavior before and after tuning, on balanced windows; None where not measured.

    Attributes:
        behavior: Its label.
        group: head, medium or tail.
        count: Training events; `share`: their fraction.
        support: Test windows.
        recall: Per model.
        change: Recall gained by B-Tuning.
        precision: Of the final model; `predicted`: how often it predicted the behavior.
        pool: Windows in B-Tuning's pool; `selected`: those that it trained on. None without a pool.
    """

    behavior: str
    group: str
    count: int
    share: float
    support: int
    recall: Mapping[str, float | None]
    change: float | None
    precision: float | None
    predicted: int
    pool: int | None
    selected: int | None


@dataclass(frozen=True)
class Movers:
    """Behaviors whose recall B-Tuning changed most."""

    up: list[BehaviorRow]
    down: list[BehaviorRow]


def write_report(run: RunFolder, dataset: Dataset) -> None:
    """Write RUN/report.html, replacing an earlier one.

    Raises:
        EdgebError: the run has no metrics yet, or a file of it is damaged.
    """
    write_text(run.path / "report.html", render_report(run, dataset))


def render_report(run: RunFolder, dataset: Dataset) -> str:
    """The report as an HTML page, without scripts or references to anything outside it."""
    metrics, recipe = read_metrics(run), run.recipe
    groups = dataset.candidates.groups(metrics.anchor_threshold)
    b_tuning = run.done("b_tuning")
    pairs = _read_pairs(run.path / "pairs.jsonl")
    rows = _behaviors(metrics, dataset, groups, b_tuning or {})
    page = templates(autoescape=True)
    page.filters.update(number=number, difference=difference)
    return page.get_template("report.html.j2").render(
        run_name=run.path.resolve().name,
        created=datetime.fromisoformat(str(run.state.created)).strftime("%Y-%m-%d %H:%M UTC"),
        source=dataset.info.source.name,
        recipe=recipe,
        recipe_text=(run.path / "recipe.yaml").read_text(encoding="utf-8"),
        standin=run.state.backbone.standin,
        backbone=backbone_sentence(run, recipe),
        verdict=verdict(metrics),
        kept=b_tuning_sentence(b_tuning),
        tiles=_tiles(metrics),
        names=NAMES,
        models=MODELS,
        seed=metrics.seed,
        anchor=metrics.anchor_threshold,
        results=[_results(metrics, protocol) for protocol in PROTOCOLS],
        effects=[(p, stage_effects(metrics.models, p), _effect_plot(metrics, p)) for p in PROTOCOLS],
        backbone_stage=run.done("backbone") or {},
        pretraining=_pretraining_plot(run),
        a_tuning=run.done("a_tuning"),
        a_plots=_loss_plots(run.done("a_tuning"), "A-Tuning"),
        b_tuning=b_tuning,
        b_plots=_b_plots(b_tuning),
        behaviors=rows,
        movers=_movers(rows),
        recall_plots=_recall_plots(rows),
        share_plots=_share_plots(rows, metrics.anchor_threshold),
        difficulty_plots=_difficulty_plots(rows, b_tuning or {}, pairs or [], recipe.b_tuning.samples_per_behavior),
        short_of=[r for r in rows if r.selected is not None and r.selected < recipe.b_tuning.samples_per_behavior],
        pairs=pairs,
        examples=_examples(pairs or [], metrics.seed),
        facts=dataset_rows(dataset, metrics.anchor_threshold),
        split=split_sentence(dataset),
        units=units_of(metrics),
        files=dataset.info.source.files,
        seconds=[(stage, done["seconds"]) for stage in _TIMED if (done := run.done(stage)) and "seconds" in done],
        versions=versions(run),
        changed=changed_settings(run),
    )


def logged(log: Sequence[Report], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one quantity in a trainer's log history; values that are not finite are left out."""
    found = [(float(r["step"]), float(r[key])) for r in log if r.get(key) is not None and math.isfinite(float(r[key]))]
    return [x for x, _ in found], [y for _, y in found]


def tensorboard_scalars(folder: Path, tag: str) -> tuple[list[float], list[float]]:
    """Steps and values of one scalar from the newest TensorBoard file under `folder` that has it, else empty."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    files = folder.rglob("events.out.tfevents.*")
    for file in sorted(files, key=lambda p: p.stat().st_mtime, reverse=True):
        events = EventAccumulator(str(file)).Reload()
        if tag in events.Tags()["scalars"]:
            found = [e for e in events.Scalars(tag) if math.isfinite(e.value)]
            return [float(e.step) for e in found], [float(e.value) for e in found]
    return [], []


def _read_pairs(path: Path) -> list[dict[str, Any]] | None:
    if not path.is_file():
        return None
    found = []
    for line_number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            raise EdgebError(f"{path}:{line_number}: not a JSON object", "the file is damaged; train again") from None
    return found


def _tiles(metrics: RunMetrics) -> list[Tile]:
    """The headline numbers, each beside those it is to be compared with."""
    wanted = (
        ("accuracy, natural windows", "natural", "weighted_recall"),
        ("mean recall per behavior, balanced", "balanced", "overall"),
        ("mean recall of tail behaviors, balanced", "balanced", "tail"),
    )
    systems = (metrics.final, metrics.models["untuned"], metrics.counters[_COUNTER])
    return [
        Tile(title, *(number(held[protocol].value(metric)) for held in systems)) for title, protocol, metric in wanted
    ]


def _results(metrics: RunMetrics, protocol: str) -> ResultTable:
    systems = metrics.systems
    columns = [COLUMNS[c] for c in shown_columns(systems, protocol)]
    return ResultTable(protocol, columns, result_rows(systems, protocol), protocol_caption(systems, protocol))


def _effect_plot(metrics: RunMetrics, protocol: str) -> Markup:
    def estimate(held: Metrics, group: str) -> Estimate:
        return Estimate(held.value(group), held.interval_of(group))

    models, counter = metrics.models, metrics.counters[_COUNTER][protocol]
    values = {g: [estimate(models[m][protocol], g) for m in MODELS] for g in (*GROUPS, "overall")}
    beside = {g: estimate(counter, g) for g in values}
    title = f"Head, medium, tail and overall recall at each stage, {protocol} windows"
    return Markup(plots.group_effects(title, [NAMES[m] for m in MODELS], values, beside))


def _pretraining_plot(run: RunFolder) -> Markup | None:
    done = run.done("backbone") or {}
    x, y = logged(done.get("log", []), "loss")
    if not x:
        x, y = tensorboard_scalars(run.path / "logs" / "backbone", "train/loss")
    if not x:
        return None
    line = Series("training loss", x, y)
    return Markup(plots.curves("Loss of the stand-in's pretraining", [line], "loss, nats per token"))


def _loss_plots(report: Report | None, stage: str) -> list[tuple[str, Markup]]:
    """Training and validation loss of supervised tuning."""
    if report is None or report["method"] == "none":
        return []
    x, y = logged(report["log"], "loss")
    vx, vy = logged(report["log"], "eval_loss")
    lines = [Series("training", x, y, "muted"), Series("validation", vx, vy, "a_tuning", points=True)]
    lines = [line for line in lines if line.x]
    if not lines:
        return []
    # The best step of B-Tuning is shown in the plot of its validation scores.
    best = report.get("best_step") if stage == "A-Tuning" else None
    mark = (float(best), f"kept: step {best}") if best else None
    svg = plots.curves(f"{stage}: training and validation loss", lines, "loss, nats per token", mark)
    return [("Loss on the supervised tokens", Markup(svg))]


def _b_plots(report: Report | None) -> list[tuple[str, Markup]]:
    if report is None or report["method"] == "none":
        return []
    found = _loss_plots(report, "B-Tuning") if report["method"] == "sft" else _preference_plots(report["log"])
    history = report["validation"]
    lines = [
        Series(name, *logged(history, key), color=color, points=True)
        for key, name, color in (
            ("accuracy", "accuracy, natural", "muted"),
            ("overall", "overall, balanced", "b_tuning"),
            ("score", "score", "ink"),
        )
    ]
    best = report["best_step"]
    svg = plots.curves("Validation users during B-Tuning", lines, "share", (float(best), f"kept: {best}"))
    return [*found, ("Validation users, scored during B-Tuning; score is the mean of the two", Markup(svg))]


def _preference_plots(log: Sequence[Report]) -> list[tuple[str, Markup]]:
    wanted = (
        ("loss", "DPO loss; it starts at ln 2 = .693", "loss"),
        ("rewards/margins", "Reward margin: how much more the tuned model prefers the chosen label", "margin"),
        ("rewards/accuracies", "Share of pairs whose chosen label has the higher reward", "share of pairs"),
    )
    found = []
    for key, caption, ylabel in wanted:
        x, y = logged(log, key)
        if x:
            svg = plots.curves(f"B-Tuning: {caption}", [Series(key, x, y, "b_tuning")], ylabel)
            found.append((caption, Markup(svg)))
    return found


def _behaviors(metrics: RunMetrics, dataset: Dataset, groups: Sequence[str], b_tuning: Report) -> list[BehaviorRow]:
    """One row per behavior, most frequent first."""
    models = {name: metrics.models[name]["balanced"].per_behavior for name in MODELS}
    labels, counts, shares = dataset.candidates.labels, dataset.candidates.counts, dataset.candidates.shares
    pool, selected = (b_tuning.get(f"{what}_per_behavior", {}) for what in ("pool", "selected"))
    rows = []
    for i in sorted(range(len(labels)), key=lambda i: -counts[i]):
        held = {name: listed[i] for name, listed in models.items()}
        final, before, after = held["b_tuning"], held["a_tuning"].recall, held["b_tuning"].recall
        rows.append(
            BehaviorRow(
                behavior=labels[i],
                group=groups[i],
                count=counts[i],
                share=float(shares[i]),
                support=final.support,
                recall={name: row.recall for name, row in held.items()},
                change=None if before is None or after is None else after - before,
                precision=final.precision,
                predicted=final.predicted,
                pool=pool.get(labels[i]),
                selected=selected.get(labels[i]),
            )
        )
    return rows


def _movers(rows: Iterable[BehaviorRow]) -> Movers:
    changed = sorted(((r.change, r) for r in rows if r.change), key=lambda pair: pair[0])
    return Movers(
        up=[r for change, r in reversed(changed) if change > 0][:_MOVERS],
        down=[r for change, r in changed if change < 0][:_MOVERS],
    )


def _recall_plots(rows: Sequence[BehaviorRow]) -> list[Markup]:
    recalls = {name: [row.recall[name] for row in rows] for name in MODELS}
    return [Markup(svg) for svg in plots.recall_panels([row.behavior for row in rows], recalls)]


def _share_plots(rows: Sequence[BehaviorRow], anchor: float) -> list[Markup]:
    labels, counts, groups = [r.behavior for r in rows], [r.count for r in rows], [r.group for r in rows]
    return [Markup(svg) for svg in plots.share_panels(labels, counts, groups, anchor)]


def _difficulty_plots(
    rows: Sequence[BehaviorRow], b_tuning: Report, pairs: Sequence[Report], wanted: int
) -> list[tuple[str, Markup]]:
    if "selected_per_behavior" not in b_tuning:
        return []
    selected, groups = [b_tuning["selected_per_behavior"][r.behavior] for r in rows], [r.group for r in rows]
    bars = plots.selected_bars("Selected samples per behavior", selected, groups, wanted)
    found = [("Selected samples per behavior", Markup(bars))]
    if pairs:
        group_of = {row.behavior: row.group for row in rows}
        values = {g: [p["difficulty"] for p in pairs if group_of[p["chosen"]] == g] for g in GROUPS}
        svg = plots.histogram("Difficulty of the selected pairs", values, "difficulty D")
        found.append(("Difficulty of the selected pairs, by the group of the true behavior", Markup(svg)))
    return found


def _examples(pairs: Sequence[Report], seed: int) -> list[dict[str, Any]]:
    """Up to 20 random pairs of as many different behaviors as possible, hardest first."""
    order = [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))]
    seen: set[str] = set()
    first: list[Report] = []
    rest: list[Report] = []
    for pair in order:
        (rest if pair["chosen"] in seen else first).append(pair)
        seen.add(pair["chosen"])
    chosen = sorted([*first, *rest][:_EXAMPLES], key=lambda pair: -pair["difficulty"])
    return [{**pair, "when": _day_hour(pair["time"]), "last": pair["history"][-_LAST_SHOWN:]} for pair in chosen]


def _day_hour(time: str) -> str:
    when = datetime.fromisoformat(time)
    return f"{DAYS[when.weekday()]} {when.hour}"
