"""The sentences and numbers that a run's report and its model card share.

Reads the run folder and dataset.json; loads no model.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edge_behavior.core.candidates import GROUPS
from edge_behavior.data.dataset import SPLITS, Dataset
from edge_behavior.data.describe import split_text
from edge_behavior.data.info import SplitCounts
from edge_behavior.evaluation.metrics import Metrics
from edge_behavior.evaluation.results import RunMetrics
from edge_behavior.evaluation.tables import pretty_name, units_counted
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.util.numbers import difference, number

STANDIN_NOTE = (
    "A stand-in replaces a pretrained model where none is available. Its numbers show that the pipeline works; they do "
    "not transfer to a pretrained backbone such as Qwen2-1.5B or Llama-3.1-8B."
)
_PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "tokenizers", "scikit-learn", "numpy")


def backbone_sentence(run: RunFolder, recipe: Recipe) -> str:
    """What was tuned; says so where it is the stand-in."""
    if not run.state.backbone.standin:
        revision = f", revision {recipe.backbone.revision}" if recipe.backbone.revision else ""
        return f"The backbone is {run.state.backbone.path}{revision}."
    report = run.done("backbone") or {}
    parameters = report.get("parameters")
    size = f" with {millions(parameters)} parameters" if parameters else ""
    tokens = report.get("pretrain_tokens")
    pretrained = f"pretrained on {millions(tokens)} tokens of generated everyday text" if tokens else "not pretrained"
    return (
        f"The backbone is the stand-in: a Qwen2-architecture model{size}, created by this run and {pretrained}. "
        f"{STANDIN_NOTE}"
    )


def changed_settings(run: RunFolder) -> list[str]:
    """A sentence per resume with other settings: the saved recipe holds only the last ones."""
    found = []
    for change in run.state.changes:
        fields = ", ".join(f"{name} from {old} to {new}" for name, (old, new) in change.fields.items())
        during = f"during {change.during}" if change.during else "after the last stage"
        over = ", which started over" if change.started_over else ""
        found.append(f"Changed {during}{over}: {fields}.")
    return found


def b_tuning_sentence(report: Mapping[str, Any] | None) -> str:
    """Which weights B-Tuning kept."""
    if report is None:
        return "B-Tuning has not run."
    if report["method"] == "none":
        return "B-Tuning was switched off (b_tuning.method: none); “after B-Tuning” is the A-tuned model again."
    if report["best_step"] == 0:
        return "No step beat the A-tuned weights, which were kept; “after B-Tuning” is the A-tuned model again."
    history = {row["step"]: row["score"] for row in report["validation"]}
    gain = history[report["best_step"]] - history[0]
    return (
        f"The weights of step {report['best_step']:,} of {report['steps']:,} were kept: "
        f"validation score {number(history[report['best_step']])}, {difference(gain)} over the A-tuned weights."
    )


def verdict(metrics: RunMetrics) -> str:
    """Whether the final model beats the best counter on natural windows."""
    counters = {name: held["natural"] for name, held in metrics.counters.items()}
    best = max(counters, key=lambda name: counters[name].weighted_recall)
    final, counter = metrics.final["natural"], counters[best]
    return (
        f"Accuracy on natural test windows is {number(final.weighted_recall)} for the final model and "
        f"{number(counter.weighted_recall)} for the best simple counter, {pretty_name(best)}. "
        f"{_outcome(final, counter)}"
    )


def _outcome(final: Metrics, counter: Metrics) -> str:
    if number(final.weighted_recall) == number(counter.weighted_recall):
        return "They are level."
    ahead = "The model is ahead" if final.weighted_recall > counter.weighted_recall else "The counter is ahead"
    ours, theirs = (m.interval_of("weighted_recall") for m in (final, counter))
    if ours is None or theirs is None:
        return f"{ahead}."
    overlap = ours[0] <= theirs[1] and theirs[0] <= ours[1]
    return f"{ahead}, {'but their 95 % intervals overlap' if overlap else 'and their 95 % intervals do not overlap'}."


def split_sentence(dataset: Dataset) -> str:
    """How the test part differs from the training part."""
    if dataset.split == "time":
        return (
            "Test windows are the last tenth of every user's events. Earlier events of the same users were seen in "
            "training, so the results do not cover new users."
        )
    column = dataset.info.options.group_column
    also = f", nor was anyone of the same {column}" if column is not None else ""
    return f"No test user was seen in training{also}."


def units_of(metrics: RunMetrics) -> str:
    """The units of a run's intervals."""
    return units_counted(metrics.final["natural"].units)


def dataset_rows(dataset: Dataset, anchor: float) -> list[tuple[str, str]]:
    """(name, value) rows that describe the training data."""
    info, groups = dataset.info, dataset.candidates.groups(anchor)
    shares = dataset.candidates.shares
    counted = ", ".join(
        f"{groups.count(g)} {g} ({sum(s for s, n in zip(shares, groups, strict=True) if n == g):.1%} of events)"
        for g in GROUPS
    )
    return [
        ("Source", f"{info.source.name} ({info.source.format})"),
        ("Time", f"{info.span.start[:10]} to {info.span.end[:10]}"),
        ("Split", split_text(dataset)),
        *((f"{s.capitalize()} users", _part(info.splits[s])) for s in SPLITS),
        ("Behaviors", f"{len(groups)}: {counted}"),
        ("Fingerprint", dataset.fingerprint),
    ]


def versions(run: RunFolder) -> list[tuple[str, str]]:
    """edgeb's version when the run started, and those of Python and the libraries now."""
    found = [("edgeb", str(run.state.edgeb)), ("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "not installed"))
    return found


def millions(count: int) -> str:
    """A count for reading: 3.3 M, 812 k, 9,000."""
    if count >= 1_000_000:
        return f"{count / 1e6:.1f} M"
    return f"{count / 1e3:.0f} k" if count >= 10_000 else f"{count:,}"


def templates(autoescape: bool) -> Environment:
    """The shipped templates; a name that is not given to a template is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _part(split: SplitCounts) -> str:
    return f"{split.users:,} with {split.events:,} events, {split.windows:,} windows"
