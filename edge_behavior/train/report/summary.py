"""What a run is, in words and numbers that both its report and its model card state.

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
from edge_behavior.evaluation.tables import pretty_name, units_counted
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.util.numbers import difference, number

STANDIN_NOTE = (
    "A stand-in takes the place of a pretrained model where none can be had. Its numbers say that the path works; "
    "they do not transfer to a pretrained backbone such as Qwen2-1.5B or Llama-3.1-8B."
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
    taught = f"pretrained there on {millions(tokens)} tokens of generated everyday text" if tokens else "not pretrained"
    return (
        f"The backbone is the stand-in: a Qwen2-architecture model{size}, made on the machine that ran this "
        f"and {taught}. {STANDIN_NOTE}"
    )


def changed_settings(run: RunFolder) -> list[str]:
    """A sentence per time that the run was resumed with other settings: the saved recipe holds the last ones only."""
    found = []
    for change in run.state.changes:
        fields = ", ".join(f"{name} from {old} to {new}" for name, (old, new) in change.fields.items())
        during = f"during {change.during}" if change.during else "after the last stage"
        over = ", which started over" if change.started_over else ""
        found.append(f"Changed {during}{over}: {fields}.")
    return found


def b_tuning_sentence(report: Mapping[str, Any] | None) -> str:
    """Which weights B-Tuning ended with."""
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


def verdict(metrics: Mapping[str, Any]) -> str:
    """How the final model stands against the best counter on natural windows, as a sceptic would ask."""
    protocol, metric = "natural", "weighted_recall"
    final = metrics["models"]["b_tuning"][protocol]
    best = max(metrics["counters"], key=lambda name: metrics["counters"][name][protocol][metric])
    counter = metrics["counters"][best][protocol]
    ahead = final[metric] > counter[metric]
    if number(final[metric]) == number(counter[metric]):
        outcome = "They are level."
    else:
        outcome = "The model is ahead" if ahead else "The counter is ahead"
        intervals = [m.get("interval", {}).get(metric) for m in (final, counter)]
        if all(intervals):
            (low_a, high_a), (low_b, high_b) = intervals
            overlap = low_a <= high_b and low_b <= high_a
            outcome += (
                ", but their 95 % intervals overlap." if overlap else ", and their 95 % intervals do not overlap."
            )
        else:
            outcome += "."
    return (
        f"On natural test windows the final model is right {number(final[metric])} of the time; the best simple "
        f"counter, {pretty_name(best)}, {number(counter[metric])}. {outcome}"
    )


def split_sentence(dataset: Dataset) -> str:
    """What the test part is new in."""
    if dataset.split == "time":
        return (
            "Test windows are the last tenth of every user's events; earlier events of the same users were seen in "
            "training, so nothing is said of people who were not."
        )
    column = dataset.info["options"].get("group_column")
    also = f", nor anyone of the same {column}" if column is not None else ""
    return f"No test user was seen in training{also}."


def units_of(metrics: Mapping[str, Any]) -> str:
    """What the intervals of a run are over."""
    return units_counted(metrics["models"]["b_tuning"]["natural"].get("resampled", {"unit": "users"}))


def dataset_facts(dataset: Dataset, anchor: float) -> list[tuple[str, str]]:
    """(name, value) rows that describe the training data."""
    info, groups = dataset.info, dataset.candidates.groups(anchor)
    shares = dataset.candidates.shares
    counted = ", ".join(
        f"{groups.count(g)} {g} ({sum(s for s, n in zip(shares, groups, strict=True) if n == g):.1%} of events)"
        for g in GROUPS
    )
    return [
        ("Source", f"{info['source']['name']} ({info['source']['format']})"),
        ("Time", f"{info['span']['start'][:10]} to {info['span']['end'][:10]}"),
        ("Split", split_text(dataset)),
        *((f"{s.capitalize()} users", _part(info["splits"][s])) for s in SPLITS),
        ("Behaviors", f"{len(groups)}: {counted}"),
        ("Fingerprint", dataset.fingerprint),
    ]


def versions(run: RunFolder) -> list[tuple[str, str]]:
    """edgeb's version when the run began, and those of Python and the libraries now."""
    found = [("edgeb", str(run.state.edgeb)), ("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "not installed"))
    return found


def millions(count: int) -> str:
    """A count as people say it: 3.3 M, 812 k, 90."""
    if count >= 1_000_000:
        return f"{count / 1e6:.1f} M"
    return f"{count / 1e3:.0f} k" if count >= 10_000 else f"{count:,}"


def templates(autoescape: bool) -> Environment:
    """The shipped templates; a name that a template uses and nobody gave is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _part(split: Mapping[str, Any]) -> str:
    return f"{split['users']:,} with {split['events']:,} events, {split['windows']:,} windows"
