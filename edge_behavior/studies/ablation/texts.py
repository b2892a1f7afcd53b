"""An ablation's numbers as text: the same rows for Markdown and HTML, and the sentences about them.

Takes what `summary.summarize` gives; computes nothing but texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.protocols import PROTOCOLS
from edge_behavior.evaluation.tables import COLUMNS, pretty_name
from edge_behavior.studies.ablation.summary import METRICS
from edge_behavior.train.stage_list import MODELS
from edge_behavior.util.markdown import markdown_table, markdown_text
from edge_behavior.util.numbers import NONE, difference, number

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class TextRow:
    """One variant: what it is called, a cell per column, and how many runs stand behind it."""

    title: str
    cells: tuple[str, ...]
    runs: str


def columns() -> list[str]:
    """Heads of the metric columns."""
    return [COLUMNS[metric] for metric in METRICS]


def stage_rows(summary: Summary, protocol: str) -> list[TextRow]:
    """Counters, the untuned backbone and the full recipe after each stage."""
    names = (*COUNTERS, *MODELS)
    held = {name: summary["stages"][name][protocol] for name in names}
    return [TextRow(pretty_name(name), _values(held[name]), _behind(held[name], summary)) for name in names]


def value_rows(study: Mapping[str, Any], summary: Summary, protocol: str) -> list[TextRow]:
    """The full recipe and the study's variants: mean and interval of every metric."""
    found = [_row(summary["full"], summary, _values(summary["full"]["metrics"][protocol]))]
    return found + [_row(v, summary, _values(v["metrics"][protocol])) for v in study["variants"]]


def difference_rows(study: Mapping[str, Any], summary: Summary, protocol: str) -> list[TextRow]:
    """Variant minus full recipe, paired by seed, of the variants that differ from it."""
    return [
        _row(v, summary, tuple(_signed(v["difference"][protocol][m], m) for m in METRICS))
        for v in study["variants"]
        if not v["is_full"]
    ]


def remarks(study: Mapping[str, Any], summary: Summary) -> list[str]:
    """What a reader of the study has to know beside its numbers."""
    found = [study["note"]]
    same = [v["title"] for v in study["variants"] if v["is_full"]]
    if same:
        found.append(f"Already in the recipe: {', '.join(same)}.")
    kept = [v for v in (summary["full"], *study["variants"]) if v["kept_a_tuned"]["runs"]]
    if kept:
        listed = ", ".join(f"{v['title']} {v['kept_a_tuned']['runs']} of {v['kept_a_tuned']['of']}" for v in kept)
        found.append(f"Runs where no step of stage 2 beat the A-tuned weights, which were kept: {listed}.")
    if any(key.startswith("a_tuning.aux") for v in study["variants"] for key in v["changes"]):
        talks = [
            f"{v['title']} {v['conversations_per_epoch']:,.0f}"
            for v in (summary["full"], *study["variants"])
            if v["conversations_per_epoch"] is not None
        ]
        if talks:
            found.append(f"Conversations per epoch that were short enough to be used: {', '.join(talks)}.")
    return found


def windows_sentence(summary: Summary, protocol: str) -> str:
    """How much was measured, as the first run drew it."""
    held = (summary["windows"] or {}).get(protocol)
    if held is None:
        return "no run is finished"
    return f"{held['windows']:,} windows of {held['users']:,} users in the first run"


def state_sentences(summary: Summary) -> list[str]:
    """What is missing and what failed."""
    found = []
    if summary["missing"]:
        found.append(f"Not run yet ({len(summary['missing'])}): {', '.join(summary['missing'])}.")
    found += [f"{name} failed: {error}" for name, error in summary["failed"].items()]
    return found or ["All runs are finished."]


def interval_sentence(summary: Summary) -> str:
    """What the ± is."""
    seeds = summary["seeds"]
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): there is no interval."
    return (
        f"Mean over {len(seeds)} seeds ({', '.join(map(str, seeds))}); ± is the {summary['interval']}. A seed draws a "
        "stand-in's weights and text, the training order and samples, and the test windows; the dataset's split is one "
        "and the same. Intervals are not corrected for the number of comparisons."
    )


def render_markdown(summary: Summary) -> str:
    """The tables of ablation.md."""
    parts = [f"# Ablations: {markdown_text(summary['recipe'])} on {markdown_text(summary['dataset']['name'])}", ""]
    parts += [" ".join((interval_sentence(summary), *summary["notes"])), "", *state_sentences(summary), ""]
    parts += ["## Counters and stages of the full recipe", ""]
    for protocol in PROTOCOLS:
        parts += [*_table(stage_rows(summary, protocol), "runs"), "", _caption(summary, protocol), ""]
    for study in summary["studies"]:
        parts += [f"## {study['title']}", "", " ".join(remarks(study, summary)), ""]
        for protocol in PROTOCOLS:
            parts += [*_table(value_rows(study, summary, protocol), "runs"), "", _caption(summary, protocol), ""]
        for protocol in PROTOCOLS:
            rows = difference_rows(study, summary, protocol)
            if rows:
                parts += [*_table(rows, "runs"), "", f"Minus the full recipe, paired by seed; {protocol} windows.", ""]
    return "\n".join(parts)


def _caption(summary: Summary, protocol: str) -> str:
    return f"{protocol.capitalize()} protocol: {windows_sentence(summary, protocol)}."


def _table(rows: Sequence[TextRow], last: str) -> list[str]:
    lines = ((markdown_text(row.title), *row.cells, row.runs) for row in rows)
    return markdown_table(["", *columns(), last], lines)


def _row(variant: Mapping[str, Any], summary: Summary, cells: tuple[str, ...]) -> TextRow:
    title = f"{variant['title']} (= full)" if variant["is_full"] and variant["name"] != "full" else variant["title"]
    return TextRow(title, cells, f"{variant['finished']} of {len(summary['seeds'])}")


def _behind(held: Mapping[str, Any], summary: Summary) -> str:
    return f"{len(held['weighted_recall']['values'])} of {len(summary['seeds'])}"


def _values(held: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_mean(held[metric], metric) for metric in METRICS)


def _mean(statistic: Mapping[str, Any], metric: str) -> str:
    if statistic["mean"] is None:
        return NONE
    digits = 2 if metric == "nll" else 3
    return f"{_shown(statistic['mean'], digits)}{_half(statistic, digits)}"


def _signed(statistic: Mapping[str, Any], metric: str) -> str:
    if statistic["mean"] is None:
        return NONE
    if metric == "nll":
        return f"{statistic['mean']:+.2f}{_half(statistic, 2)}"
    return f"{difference(statistic['mean'])}{_half(statistic, 3)}"


def _half(statistic: Mapping[str, Any], digits: int) -> str:
    if statistic["interval"] is None:
        return ""
    low, high = statistic["interval"]
    return f" ±{_shown((high - low) / 2, digits)}"


def _shown(value: float, digits: int) -> str:
    return f"{value:.2f}" if digits == 2 else number(value, digits)
