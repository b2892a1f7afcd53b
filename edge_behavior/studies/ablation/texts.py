"""An ablation's numbers as text: the same rows for Markdown, HTML and the terminal, and the sentences beside them.

Computes no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.protocols import PROTOCOLS
from edge_behavior.evaluation.tables import COLUMNS, pretty_name
from edge_behavior.studies.ablation.studies import FULL
from edge_behavior.studies.ablation.summary import (
    INTERVAL,
    METRICS,
    AblationSummary,
    SeedStatistic,
    StudySummary,
    VariantSummary,
)
from edge_behavior.train.stage_list import MODELS
from edge_behavior.util.markdown import markdown_table, markdown_text
from edge_behavior.util.numbers import NONE, difference, number


@dataclass(frozen=True)
class TextRow:
    """One variant or system: its title, a cell per column, and how many runs stand behind it."""

    title: str
    cells: tuple[str, ...]
    runs: str


def columns() -> list[str]:
    """Headings of the metric columns."""
    return [COLUMNS[metric] for metric in METRICS]


def stage_rows(summary: AblationSummary, protocol: str) -> list[TextRow]:
    """Counters, the untuned backbone and the full recipe after each stage."""
    rows = []
    for name in (*COUNTERS, *MODELS):
        held = summary.stages[name][protocol]
        runs = f"{len(held['weighted_recall'].values)} of {len(summary.seeds)}"
        rows.append(TextRow(pretty_name(name), tuple(_mean(held[metric], metric) for metric in METRICS), runs))
    return rows


def value_rows(study: StudySummary, summary: AblationSummary, protocol: str) -> list[TextRow]:
    """The full recipe and the study's variants: mean and interval of every metric."""
    return [
        _row(v, summary, tuple(_mean(v.metrics[protocol][metric], metric) for metric in METRICS))
        for v in (summary.full, *study.variants)
    ]


def difference_rows(study: StudySummary, summary: AblationSummary, protocol: str) -> list[TextRow]:
    """Variant minus full recipe, paired by seed, of the variants that differ from it."""
    return [
        _row(v, summary, tuple(_signed(v.difference[protocol][metric], metric) for metric in METRICS))
        for v in study.variants
        if not v.is_full
    ]


def remarks(study: StudySummary, summary: AblationSummary) -> list[str]:
    """What a reader of the study has to know besides its numbers."""
    found, shown = [study.note], (summary.full, *study.variants)
    same = [v.title for v in study.variants if v.is_full]
    if same:
        found.append(f"Same as the full recipe: {', '.join(same)}.")
    kept = [f"{v.title} {v.kept_a_tuned.runs} of {v.kept_a_tuned.of}" for v in shown if v.kept_a_tuned.runs]
    if kept:
        found.append(f"Runs in which no step of stage 2 beat the A-tuned weights, which were kept: {', '.join(kept)}.")
    if any(key.startswith("a_tuning.aux") for v in study.variants for key in v.changes):
        known = [(v.title, v.conversations_per_epoch) for v in shown]
        talks = [f"{title} {count:,.0f}" for title, count in known if count is not None]
        if talks:
            found.append(f"Conversations per epoch that were short enough to be used: {', '.join(talks)}.")
    return found


def windows_sentence(summary: AblationSummary, protocol: str) -> str:
    """How much was measured, as the first run drew it."""
    held = (summary.windows or {}).get(protocol)
    if held is None:
        return "no run is finished"
    return f"{held.windows:,} windows of {held.users:,} users in the first run"


def state_sentences(summary: AblationSummary) -> list[str]:
    """Which runs are missing and which failed."""
    found = []
    if summary.missing:
        found.append(f"Not finished ({len(summary.missing)}): {', '.join(summary.missing)}.")
    found += [f"{name} failed: {error}" for name, error in summary.failed.items()]
    return found or ["All runs are finished."]


def interval_sentence(summary: AblationSummary) -> str:
    """What the ± is."""
    seeds = summary.seeds
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): there is no interval."
    return (
        f"Mean over {len(seeds)} seeds ({', '.join(map(str, seeds))}); ± is the {INTERVAL}. A seed determines a "
        "stand-in's weights and text, the training order and samples, and the test windows; the dataset's split is the "
        "same for all. Intervals are not corrected for multiple comparisons."
    )


def render_markdown(summary: AblationSummary) -> str:
    """The tables of ablation.md."""
    setting = summary.setting
    parts = [f"# Ablations: {markdown_text(setting.recipe)} on {markdown_text(setting.dataset.name)}", ""]
    parts += [f"The full recipe's method is {markdown_text(setting.method)}.", ""]
    parts += [" ".join((interval_sentence(summary), *setting.notes)), "", *state_sentences(summary), ""]
    parts += ["## Counters and stages of the full recipe", ""]
    for protocol in PROTOCOLS:
        parts += [*_table(stage_rows(summary, protocol)), "", _caption(summary, protocol), ""]
    for study in summary.studies:
        parts += [f"## {study.title}", "", " ".join(remarks(study, summary)), ""]
        for protocol in PROTOCOLS:
            parts += [*_table(value_rows(study, summary, protocol)), "", _caption(summary, protocol), ""]
        for protocol in PROTOCOLS:
            rows = difference_rows(study, summary, protocol)
            if rows:
                parts += [*_table(rows), "", f"Minus the full recipe, paired by seed; {protocol} windows.", ""]
    return "\n".join(parts)


def _caption(summary: AblationSummary, protocol: str) -> str:
    return f"{protocol.capitalize()} protocol: {windows_sentence(summary, protocol)}."


def _table(rows: Sequence[TextRow]) -> list[str]:
    lines = ((markdown_text(row.title), *row.cells, row.runs) for row in rows)
    return markdown_table(["", *columns(), "runs"], lines)


def _row(variant: VariantSummary, summary: AblationSummary, cells: tuple[str, ...]) -> TextRow:
    title = f"{variant.title} (= full)" if variant.is_full and variant.name != FULL else variant.title
    return TextRow(title, cells, f"{variant.finished} of {len(summary.seeds)}")


def _mean(statistic: SeedStatistic, metric: str) -> str:
    if statistic.mean is None:
        return NONE
    return f"{_shown(statistic.mean, metric)}{_half_width(statistic, metric)}"


def _signed(statistic: SeedStatistic, metric: str) -> str:
    if statistic.mean is None:
        return NONE
    shown = f"{statistic.mean:+.2f}" if metric == "nll" else difference(statistic.mean)
    return f"{shown}{_half_width(statistic, metric)}"


def _half_width(statistic: SeedStatistic, metric: str) -> str:
    if statistic.interval is None:
        return ""
    low, high = statistic.interval
    return f" ±{_shown((high - low) / 2, metric)}"


def _shown(value: float, metric: str) -> str:
    return f"{value:.2f}" if metric == "nll" else number(value)
