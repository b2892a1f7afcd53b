"""The report's plots as inline SVG whose colors are the page's CSS variables.

Plain numbers and labels in, SVG text out; knows no run folder. Text stays text (in any script, in the page's font).
Every plot is 420 units wide, so that it is readable on a phone.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_behavior.core.candidates import GROUPS

# Placeholders that Matplotlib draws in; the page defines the real colors. Never pure black, which Matplotlib omits.
_COLORS = {
    name: f"#0a0b{i:02x}"
    for i, name in enumerate(
        ("ink", "muted", "grid", "head", "medium", "tail", "overall", "untuned", "a_tuning", "b_tuning"), 1
    )
}
_WIDTH = 420
_FONT = 11
_ROW, _MARGIN = 15, 46
_PANEL_ROWS = 50
_MAX_LABEL = 26
# Of decreasing size, so that points at the same place all show.
_STAGE_MARKERS = {"untuned": ("|", 70), "a_tuning": ("o", 30), "b_tuning": ("D", 11)}
_GROUP_MARKERS = {"head": "o", "medium": "s", "tail": "^", "overall": "D"}
# Colors of the lines of a plot that compares systems.
LINES = ("a_tuning", "tail", "head", "b_tuning", "medium", "untuned", "overall")


@dataclass(frozen=True)
class Series:
    """One curve of a plot; `color` names one of the page's colors, `points` marks its points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = "ink"
    points: bool = False


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; None where not measured."""

    value: float | None
    interval: Sequence[float] | None = None


def curves(title: str, series: Sequence[Series], ylabel: str, mark: tuple[float, str] | None = None) -> str:
    """Curves over training steps.

    Args:
        title: For screen readers.
        series: The curves.
        ylabel: What the values are.
        mark: (step, text) of a vertical line.
    """

    def draw(figure: Any, axis: Any) -> None:
        for line in series:
            marker = "o" if line.points or len(line.x) == 1 else None
            color = _COLORS[line.color]
            axis.plot(line.x, line.y, color=color, linewidth=1.6, marker=marker, markersize=3.5, label=line.name)
        if mark is not None:
            axis.axvline(mark[0], color=_COLORS["muted"], linewidth=1, linestyle="--", label=mark[1])
        axis.set(xlabel="step", ylabel=ylabel)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(axis="y")
        if len(series) > 1 or mark is not None:
            _legend(figure)

    return _svg(title, 230, draw)


def group_effects(
    title: str, stages: Sequence[str], values: Mapping[str, Sequence[Estimate]], counter: Mapping[str, Estimate]
) -> str:
    """Head, medium, tail and overall at each stage with intervals, next to those of a counter.

    Args:
        title: For screen readers.
        stages: Names of the stages.
        values: Per group one estimate per stage.
        counter: Per group the estimate of the counter to compare with.
    """

    def draw(figure: Any, axis: Any) -> None:
        for i, (group, estimates) in enumerate(values.items()):
            shift = 0.07 * (i - (len(values) - 1) / 2)
            _errors(axis, shift, [counter[group]], group, None)
            _errors(axis, 1 + shift, estimates, group, group)
        axis.axvline(0.5, color=_COLORS["grid"], linewidth=1)
        axis.set_xticks(range(len(stages) + 1), ["place+hour\ncounter", *(s.replace(" ", "\n") for s in stages)])
        axis.set_xlim(-0.4, len(stages) + 0.4)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("mean recall per behavior")
        axis.grid(axis="y")
        _legend(figure)

    return _svg(title, 270, draw)


def recall_panels(labels: Sequence[str], recalls: Mapping[str, Sequence[float | None]]) -> list[str]:
    """Recall of every behavior at each stage, a row per behavior in the order given; several plots if there are many.

    Args:
        labels: Behaviors, most frequent first.
        recalls: Per stage a recall per behavior; None where no test window has it.
    """
    return [_recall_panel(labels, recalls, rows, members) for rows, members in _panels(len(labels))]


def share_panels(labels: Sequence[str], counts: Sequence[int], groups: Sequence[str], anchor: float) -> list[str]:
    """Share of training events of every behavior on a log scale, colored by group; several plots if there are many.

    Args:
        labels: Behaviors, most frequent first.
        counts: Training events of each.
        groups: head, medium or tail of each.
        anchor: Threshold for anchors, drawn as a line.
    """
    return [_share_panel(labels, counts, groups, anchor, rows, members) for rows, members in _panels(len(labels))]


def selected_bars(title: str, selected: Sequence[int], groups: Sequence[str], wanted: int) -> str:
    """Selected samples per behavior, most frequent behavior first, with the wanted number as a line."""

    def draw(figure: Any, axis: Any) -> None:
        for group in GROUPS:
            ranks = [i + 1 for i, g in enumerate(groups) if g == group]
            axis.bar(ranks, [selected[i - 1] for i in ranks], color=_COLORS[group], width=0.8, label=group)
        axis.axhline(wanted, color=_COLORS["muted"], linewidth=1, linestyle="--", label=f"F = {wanted}")
        axis.set_xlim(0.3, len(selected) + 0.7)
        axis.set(xlabel="behavior, most frequent first", ylabel="selected samples")
        axis.yaxis.get_major_locator().set_params(integer=True)
        _legend(figure)

    return _svg(title, 220, draw)


def histogram(title: str, values: Mapping[str, Sequence[float]], xlabel: str) -> str:
    """Stacked histogram over [0, 1] of values by group."""

    def draw(figure: Any, axis: Any) -> None:
        parts = {group: list(held) for group, held in values.items() if len(held)}
        colors = [_COLORS[group] for group in parts]
        bins = np.linspace(0, 1, 26).tolist()
        axis.hist(list(parts.values()), bins=bins, stacked=True, color=colors, label=list(parts))
        axis.set_xlim(0, 1)
        axis.set(xlabel=xlabel, ylabel="pairs")
        axis.yaxis.get_major_locator().set_params(integer=True)
        _legend(figure)

    return _svg(title, 220, draw)


def variant_rows(title: str, names: Sequence[str], values: Mapping[str, Sequence[Estimate]]) -> str:
    """One row per variant, a point with its interval per group.

    Args:
        title: For screen readers.
        names: The variants, first on top.
        values: Per group one estimate per variant.
    """
    height = len(names) * (_ROW + 4 * len(values)) + _MARGIN + _ROW

    def draw(figure: Any, axis: Any) -> None:
        for i, (group, estimates) in enumerate(values.items()):
            shift = 0.16 * (i - (len(values) - 1) / 2)
            _sideways(axis, shift, estimates, group)
        axis.set_yticks(range(len(names)), [_short(name) for name in names])
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlim(left=0)
        axis.set_xlabel("mean recall per behavior")
        axis.grid(axis="x")
        _legend(figure)

    return _svg(title, height, draw)


def sweep(title: str, names: Sequence[str], values: Mapping[str, Sequence[Estimate]]) -> str:
    """A line per group over the values of one setting, evenly spaced, with intervals.

    Args:
        title: For screen readers.
        names: The setting's values.
        values: Per group one estimate per value.
    """

    def draw(figure: Any, axis: Any) -> None:
        for i, (group, estimates) in enumerate(values.items()):
            _errors(axis, 0.06 * (i - (len(values) - 1) / 2), estimates, group, group)
        axis.set_xticks(range(len(names)), names)
        axis.set_xlim(-0.4, len(names) - 0.6)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("mean recall per behavior")
        axis.grid(axis="y")
        _legend(figure)

    return _svg(title, 250, draw)


def system_lines(
    title: str, names: Sequence[str], values: Mapping[str, Sequence[Estimate]], axes: Sequence[str]
) -> str:
    """A line per system over evenly spaced points, with intervals; at most as many systems as `LINES`.

    Args:
        title: For screen readers.
        names: The points.
        values: Per system one estimate per point.
        axes: What the points and the values are.
    """

    def draw(figure: Any, axis: Any) -> None:
        for i, (system, (name, estimates)) in enumerate(zip(LINES, values.items(), strict=False)):
            _errors(axis, 0.05 * (i - (len(values) - 1) / 2), estimates, system, _short(name))
        axis.set_xticks(range(len(names)), names)
        axis.set_xlim(-0.4, len(names) - 0.6)
        axis.set_ylim(bottom=0)
        axis.set(xlabel=axes[0], ylabel=axes[1])
        axis.grid(axis="y")
        figure.legend(loc="outside upper center", ncols=2, columnspacing=1.2)

    return _svg(title, 260 + _ROW * -(-len(values) // 2), draw)


def _recall_panel(
    labels: Sequence[str], recalls: Mapping[str, Sequence[float | None]], rows: int, members: range
) -> str:
    def draw(figure: Any, axis: Any) -> None:
        measured = []
        for row, i in enumerate(members):
            known = [v for values in recalls.values() if (v := values[i]) is not None]
            measured.append(bool(known))
            if known:
                axis.plot([min(known), max(known)], [row, row], color=_COLORS["muted"], linewidth=1, zorder=2)
        for stage, values in recalls.items():
            points = [(v, row) for row, i in enumerate(members) if (v := values[i]) is not None]
            x, y = [p[0] for p in points], [p[1] for p in points]
            marker, size = _STAGE_MARKERS[stage]
            axis.scatter(x, y, s=size, color=_COLORS[stage], marker=marker, zorder=3, clip_on=False)
        _label_rows(axis, [labels[i] for i in members], rows, measured)
        axis.set_xlim(-0.025, 1.025)
        axis.set_xlabel("recall")
        axis.grid(axis="x")

    title = f"Recall before and after each stage, {labels[members[0]]} to {labels[members[-1]]}"
    return _svg(title, rows * _ROW + _MARGIN, draw)


def _share_panel(
    labels: Sequence[str], counts: Sequence[int], groups: Sequence[str], anchor: float, rows: int, members: range
) -> str:
    total = max(sum(counts), 1)
    percent = [100 * count / total for count in counts]
    lowest = min((p for p in percent if p > 0), default=1.0) / 2
    highest = max([*percent, lowest])
    number_style: dict[str, Any] = {"va": "center", "fontsize": _FONT - 2, "color": _COLORS["muted"]}

    def draw(figure: Any, axis: Any) -> None:
        axis.set_xscale("log")
        axis.set_xlim(lowest, highest * 1.1)
        widths = [max(percent[i] - lowest, 0) for i in members]
        colors = [_COLORS[groups[i]] for i in members]
        axis.barh(range(len(members)), widths, left=lowest, color=colors, height=0.72)
        for row, i in enumerate(members):
            axis.text(1.01, row, f"{counts[i]:,}", transform=axis.get_yaxis_transform(), **number_style)
        axis.axvline(100 * anchor, color=_COLORS["muted"], linewidth=1, linestyle="--", zorder=0.5)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.minorticks_off()
        _label_rows(axis, [labels[i] for i in members], rows, [True] * len(members))
        axis.set_xlabel("% of training events (log scale)")

    title = f"Training events, {labels[members[0]]} to {labels[members[-1]]}"
    return _svg(title, rows * _ROW + _MARGIN, draw)


def _svg(title: str, height: float, draw: Callable[[Any, Any], None]) -> str:
    """Draw on new axes and return an SVG element for a page: no XML header, no links, no fixed size, CSS colors."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_style(title)), warnings.catch_warnings():
        # The browser draws the text; Matplotlib only estimates its width.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
        draw(figure, figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    # A style element would apply to the whole page; fonts are the page's.
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    # Group ids repeat from plot to plot; nothing refers to them.
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    for name, color in _COLORS.items():
        body = body.replace(color, f"var(--{name})")
    spoken = html.escape(title)
    return f'<svg class="plot" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{spoken}">{body.strip()}</svg>'


def _style(title: str) -> dict[Any, Any]:
    ink, muted, grid = _COLORS["ink"], _COLORS["muted"], _COLORS["grid"]
    return {
        "font.size": _FONT,
        "font.family": "sans-serif",
        "text.parse_math": False,  # labels are not formulas
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": grid,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": False,
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "grid.color": grid,
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "legend.handlelength": 1.4,
        "svg.fonttype": "none",
        "svg.hashsalt": title,  # ids that differ between plots and not between runs
    }


def _legend(figure: Any) -> None:
    figure.legend(loc="outside upper center", ncols=4, columnspacing=1.2)


def _errors(axis: Any, start: float, estimates: Sequence[Estimate], group: str, label: str | None) -> None:
    """Points joined by a line, with a bar per interval; hollow points without a legend label."""
    known = [(start + i, e.value, e.interval) for i, e in enumerate(estimates) if e.value is not None]
    color = _COLORS[group]
    axis.plot(
        [k[0] for k in known],
        [k[1] for k in known],
        color=color,
        linewidth=1.6,
        marker=_GROUP_MARKERS.get(group, "o"),
        markersize=5,
        markerfacecolor=color if label else "none",
        label=label,
    )
    for x, _, interval in known:
        if interval is not None:
            axis.plot([x, x], list(interval), color=color, linewidth=1.2, alpha=0.55)


def _sideways(axis: Any, start: float, estimates: Sequence[Estimate], group: str) -> None:
    """Points below each other, with a bar per interval."""
    known = [(start + i, e.value, e.interval) for i, e in enumerate(estimates) if e.value is not None]
    color = _COLORS[group]
    axis.scatter(
        [k[1] for k in known], [k[0] for k in known], s=22, color=color, marker=_GROUP_MARKERS[group], label=group
    )
    for y, _, interval in known:
        if interval is not None:
            axis.plot(list(interval), [y, y], color=color, linewidth=1.2, alpha=0.55)


def _panels(count: int) -> list[tuple[int, range]]:
    """(rows per plot, members) of each plot: one, or an even number that fills two columns."""
    panels = 1 if count <= 12 else 2 * -(-count // (2 * _PANEL_ROWS))
    rows = -(-count // panels)
    return [(rows, range(start, min(start + rows, count))) for start in range(0, count, rows)]


def _label_rows(axis: Any, labels: Sequence[str], rows: int, strong: Sequence[bool]) -> None:
    """Labels as ticks, muted unless `strong`; room for `rows` rows."""
    axis.set_yticks(range(len(labels)), [_short(label) for label in labels])
    for tick, is_strong in zip(axis.get_yticklabels(), strong, strict=True):
        tick.set_color(_COLORS["ink" if is_strong else "muted"])
        tick.set_fontsize(_FONT - 1)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(rows - 0.4, -0.6)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1].rstrip() + "…"
