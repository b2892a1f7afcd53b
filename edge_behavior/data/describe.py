"""What a dataset looks like: numbers for machines, tables for the terminal, a plot of the label frequencies.

Reads dataset.json, and the test split for its resampling units. Never prints; the command does.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edge_behavior.core.candidates import ANCHOR_THRESHOLD, GROUPS, HEAD_THRESHOLD, CandidateSet
from edge_behavior.data.dataset import SPLITS, Dataset
from edge_behavior.data.info import DatasetInfo
from edge_behavior.data.resampling import resampling
from edge_behavior.data.windows import positions
from edge_behavior.errors import EdgebError
from edge_behavior.util.files import new_file

DROP_REASONS = {
    "missing": "no behavior, or a word for none",
    "duplicate": "exact duplicates",
    "repeat": "repeats of the previous event",
    "short_user": "events of skipped users",
    "no_category": "events of apps without a category",
}
COLORS = {"head": "#1f5fa8", "medium": "#4fa3a5", "tail": "#d9822b"}
_ROWS_PER_PANEL = 50
_MAX_PLOTTED = 400
_BAR_CELLS = 24


@dataclass(frozen=True)
class BehaviorShare:
    """A behavior's training events, their fraction of all, and its frequency group."""

    behavior: str
    training_events: int
    share: float
    group: str


@dataclass(frozen=True)
class Description:
    """A dataset in numbers.

    Attributes:
        resampling: What confidence intervals on the test split resample, like "12 users".
        anchor_threshold: Share of training events above which a behavior is an anchor.
        behaviors: Most frequent first.
    """

    dataset: Dataset
    resampling: str
    anchor_threshold: float
    behaviors: tuple[BehaviorShare, ...]

    @property
    def days(self) -> float:
        """Days from the first event to the last."""
        span = self.dataset.info.span
        start, end = datetime.fromisoformat(span.start), datetime.fromisoformat(span.end)
        return round((end - start).total_seconds() / 86_400, 2)

    @property
    def groups(self) -> dict[str, dict[str, float]]:
        """`behaviors` and `share` of training events per frequency group."""
        members = {group: [b for b in self.behaviors if b.group == group] for group in GROUPS}
        return {g: {"behaviors": len(held), "share": float(sum(b.share for b in held))} for g, held in members.items()}

    def to_dict(self) -> dict[str, Any]:
        """The document of `edgeb data describe --json`."""
        info, recorded = self.dataset.info, self.dataset.info.to_dict()
        return {
            "dataset": str(self.dataset.path),
            "fingerprint": self.dataset.fingerprint,
            "source": recorded["source"],
            "options": recorded["options"],
            "split": split_text(self.dataset),
            "resampling": self.resampling,
            "rows": recorded["rows"],
            "users": recorded["users"],
            "splits": recorded["splits"],
            "history_length": info.history_length,
            "span": {**recorded["span"], "days": self.days},
            "events": sum(info.splits[split].events for split in SPLITS),
            "events_per_user": recorded["events_per_user"],
            "place": recorded["place"],
            "warnings": recorded["warnings"],
            "anchor_threshold": self.anchor_threshold,
            "head_threshold": HEAD_THRESHOLD,
            "groups": self.groups,
            "behaviors": [asdict(behavior) for behavior in self.behaviors],
        }


def describe(dataset: Dataset, anchor: float = ANCHOR_THRESHOLD) -> Description:
    """Describe a dataset.

    Args:
        anchor: Share of training events above which a behavior is an anchor.

    Raises:
        EdgebError: the threshold is not between 0 and the head threshold.
    """
    _check_threshold(anchor)
    candidates = dataset.candidates
    columns = (candidates.labels, candidates.counts, candidates.shares.tolist(), candidates.groups(anchor))
    behaviors = tuple(BehaviorShare(*values) for values in zip(*columns, strict=True))
    return Description(dataset, resampling_note(dataset), anchor, behaviors)


def split_text(dataset: Dataset) -> str:
    """How the events were split, in a few words."""
    if dataset.split == "time":
        return "by time: each user's last two tenths of events are validation and test"
    column = dataset.info.options.group_column
    return "by users" if column is None else f"by users, everyone of one {column} in one part"


def resampling_note(dataset: Dataset) -> str:
    """What confidence intervals on the test split resample, in a few words."""
    table = dataset.events("test")
    return resampling(table, positions(table.target_starts, table.user_offsets[1:])).summary().counted


def _check_threshold(anchor: float) -> None:
    if not 0 < anchor <= HEAD_THRESHOLD:
        raise EdgebError(
            f"the anchor threshold is {anchor}", f"use a share above 0 and up to {HEAD_THRESHOLD}, like 0.01"
        )


def import_tables(info: DatasetInfo) -> Group:
    """What an import read, dropped and wrote, for the terminal."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column()
    rows.add_column(justify="right")
    rows.add_row("rows read", f"{info.rows.read:,}")
    for reason, count in info.rows.dropped.items():
        rows.add_row(f"  dropped: {DROP_REASONS.get(reason, reason)}", f"{count:,}")
    rows.add_row("users read", f"{info.users.read:,}")
    rows.add_row(f"  skipped: fewer than {info.options.min_events} events", f"{info.users.skipped:,}")
    if info.place.missing:
        rows.add_row("rows without a place: unknown", f"{info.place.missing:,}")
    notes = [Text(f"warning: {warning}", style="yellow") for warning in info.warnings]
    return Group(rows, Text(), _splits(info), *([Text(), *notes] if notes else []))


def tables(description: Description, top: int = 40) -> Group:
    """A description for the terminal.

    Args:
        top: How many behaviors to list, most frequent first; 0 for all.
    """
    dataset, info = description.dataset, description.dataset.info
    per_user = info.events_per_user
    facts = Table.grid(padding=(0, 2))
    facts.add_row("source", f"{info.source.name} ({info.source.format})")
    facts.add_row("span", f"{info.span.start} to {info.span.end}: {description.days:,.0f} days")
    facts.add_row(
        "events per user",
        f"median {per_user.median:,.0f}, 10-90 %: {per_user.p10:,.0f}-{per_user.p90:,.0f}, "
        f"min {per_user.min:,.0f}, max {per_user.max:,.0f}",
    )
    facts.add_row("places", f"{info.place.count:,} ({info.place.kind})" if info.has_places else "none")
    facts.add_row("split", split_text(dataset))
    facts.add_row("intervals over", f"{description.resampling} of the test split")
    for group, held in description.groups.items():
        facts.add_row(group, f"{held['behaviors']} behaviors, {held['share']:.1%} of training events")
    return Group(facts, Text(), import_tables(info), Text(), _behaviors(description.behaviors, top))


def _splits(info: DatasetInfo) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("split")
    for name in ("users", "events", "windows"):
        table.add_column(name, justify="right")
    for split in SPLITS:
        counts = info.splits[split]
        table.add_row(split, f"{counts.users:,}", f"{counts.events:,}", f"{counts.windows:,}")
    return table


def _behaviors(listed: Sequence[BehaviorShare], top: int) -> Group:
    shown = listed if top <= 0 else listed[:top]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("behavior", overflow="fold")
    table.add_column("events", justify="right")
    table.add_column("share", justify="right")
    table.add_column("group")
    table.add_column("log scale")
    counts = [behavior.training_events for behavior in listed if behavior.training_events]
    for behavior in shown:
        color = COLORS[behavior.group]
        table.add_row(
            behavior.behavior,
            f"{behavior.training_events:,}",
            f"{behavior.share:.3%}",
            Text(behavior.group, style=color),
            Text("█" * _cells(behavior.training_events, counts[-1], counts[0]), style=color),
        )
    rest = len(listed) - len(shown)
    return Group(table, Text(f"… and {rest} more: pass --top 0, or --json" if rest else ""))


def _cells(count: int, least: int, most: int) -> int:
    """Length of a log-scale bar; the scale starts at half of the rarest behavior's count, as in the plot."""
    return round(_BAR_CELLS * math.log(2 * count / least) / math.log(2 * most / least)) if count else 0


def plot_distribution(dataset: Dataset, png_path: Path, anchor: float = ANCHOR_THRESHOLD, force: bool = False) -> None:
    """Write a PNG of the training share of every behavior: log-scale bars, most frequent first.

    Bars are colored by frequency group; lines mark the thresholds between tail, medium and head. More than 50
    behaviors take several columns; those beyond 400 are left out. `force` replaces an existing file.

    Raises:
        EdgebError: the threshold is out of range, or the file cannot be written.
    """
    _check_threshold(anchor)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter

    candidates = dataset.candidates
    shown = min(len(candidates), _MAX_PLOTTED)
    panels = min(5, math.ceil(shown / _ROWS_PER_PANEL))
    rows = math.ceil(shown / panels)
    figure = Figure(figsize=(4.4 * panels + 1.4 * (panels == 1), 0.17 * rows + 1.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False, sharex=True)[0]
    lowest, highest = _limits(candidates)
    for panel, axis in enumerate(axes):
        members = range(panel * rows, min((panel + 1) * rows, shown))
        _draw_bars(axis, candidates, members, rows, anchor, lowest)
        axis.set_xscale("log")
        axis.set_xlim(lowest, highest * 6)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
        axis.set_xlabel("share of training events, %", fontsize=8)
    groups = candidates.groups(anchor)
    labels = {
        "head": f"head: above {100 * HEAD_THRESHOLD:g} %",
        "medium": f"medium: {100 * anchor:g} to {100 * HEAD_THRESHOLD:g} %",
        "tail": f"tail: {100 * anchor:g} % or less",
    }
    handles = [Patch(color=COLORS[g], label=f"{labels[g]} ({groups.count(g)} behaviors)") for g in GROUPS]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if panels > 1 else 1, frameon=False, fontsize=8)
    anchors = len(candidates) - groups.count("tail")
    more = f", the {shown} most frequent shown" if shown < len(candidates) else ""
    title = f"{_plain(dataset.info.source.name)}: {len(candidates)} behaviors{more}"
    figure.suptitle(f"{title}\n{anchors} anchors above {100 * anchor:g} %, {groups.count('tail')} tail", fontsize=10)
    with new_file(png_path, replace=force) as temporary, warnings.catch_warnings():
        # Scripts that the font lacks show as boxes; the table has every label in full.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(temporary, dpi=130, format="png")


def _limits(candidates: CandidateSet) -> tuple[float, float]:
    """Axis range in percent: from half of the rarest behavior that occurs to the most frequent."""
    percent = [100 * float(share) for share in candidates.shares if share > 0]
    return min(percent, default=0.01) / 2, max(percent, default=100.0)


def _draw_bars(
    axis: Any, candidates: CandidateSet, members: Sequence[int], rows: int, anchor: float, lowest: float
) -> None:
    shares, groups = candidates.shares, candidates.groups(anchor)
    positions = range(len(members))
    percent = [100 * float(shares[i]) for i in members]
    axis.barh(positions, percent, color=[COLORS[groups[i]] for i in members], height=0.78)
    for position, (index, value) in enumerate(zip(members, percent, strict=True)):
        count = axis.text(max(value, lowest) * 1.08, position, f"{candidates.counts[index]:,}", va="center", fontsize=6)
        count.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.4})
        count.set_in_layout(False)  # the axis leaves room for it; measuring hundreds of texts takes seconds
    for threshold, style, name in ((anchor, "--", "anchor"), (HEAD_THRESHOLD, ":", "head")):
        axis.axvline(100 * threshold, color="#444444", linewidth=0.9, linestyle=style)
        axis.annotate(
            f"{name} > {100 * threshold:g} %",
            (100 * threshold, 1),
            xycoords=("data", "axes fraction"),
            rotation=40,
            va="bottom",
            fontsize=6,
            color="#444444",
        )
    axis.set_yticks(positions, [_plain(candidates.labels[i]) for i in members], fontsize=7)
    axis.set_ylim(rows - 0.4, -0.6)
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _plain(text: str, width: int = 40) -> str:
    """Text for Matplotlib: short, and no `$` that would start a formula."""
    short = text if len(text) <= width else text[: width - 1] + "…"
    return short.replace("$", r"\$")
