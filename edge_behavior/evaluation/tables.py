"""Tables of results for people: the same rows for the terminal, Markdown and HTML.

Takes metrics as `metrics.json` holds them and predictions as `predict` gives them. Computes no metric, and imports
rich only where a terminal table is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from edge_behavior.core.candidates import GROUPS
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.util.markdown import markdown_table, markdown_text
from edge_behavior.util.numbers import NONE, difference, number
from edge_behavior.util.resampling import counted_units

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "weighted_precision": "Prec_w",
    "weighted_recall": "Rec_w",
    "overall": "Overall",
    "head": "Head",
    "medium": "Medium",
    "tail": "Tail",
    "nll": "NLL",
}
NAMES = {
    "most_frequent": "most frequent",
    "last_mode": "mode of last 20",
    "markov_1": "Markov-1",
    "hour_mode": "mode at this hour",
    "place_hour_backoff": "place+hour back-off",
    "untuned": "untuned backbone",
    "a_tuning": "after A-Tuning",
    "b_tuning": "after B-Tuning",
    "bundle_model": "bundle: model",
    "bundle_habits": "bundle: habits",
    "bundle_fused": "bundle: both fused",
}
STAGE_ROWS = (*GROUPS, "overall")
_MODELS = ("untuned", "a_tuning", "b_tuning")
_WITH_INTERVAL = ("weighted_recall", "overall", "tail")
_LOWER_IS_BETTER = ("nll",)
_SYMMETRIC_WITHIN = 0.005
_EIGHTHS = " ▏▎▍▌▋▊▉"
_BAR_CELLS = 20

Protocols = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One number of a results table: its text, its interval's text ("" for none), and whether it is the best."""

    text: str
    interval: str = ""
    best: bool = False

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


@dataclass(frozen=True)
class Row:
    """One counter or model: its key, its name for people, and a cell per column."""

    key: str
    name: str
    cells: tuple[Cell, ...]

    @property
    def is_counter(self) -> bool:
        """Whether it is one of the simple counters."""
        return self.key in COUNTERS


def pretty_name(key: str) -> str:
    """The name people see for a counter or model; an unknown key is its own name."""
    return NAMES.get(key, key)


def interval_text(value: float, interval: Sequence[float] | None) -> str:
    """`±.021` where that says both ends, else `[.000,.014]`; "" without an interval, or where nothing varies.

    A half-width says both ends when it misses neither by more than .005 and stays inside 0 and 1.
    """
    if interval is None:
        return ""
    low, high = interval
    half = (high - low) / 2
    if half < 5e-4:
        return ""
    centered = abs(value - half - low) <= _SYMMETRIC_WITHIN
    if centered and value - half > -5e-4 and value + half < 1 + 5e-4:
        return f"±{number(half)}"
    return f"[{number(low)},{number(high)}]"


def all_rows(metrics: Mapping[str, Any]) -> dict[str, Protocols]:
    """Counters, then models, of a run's metrics.json: {name: {protocol: metrics}}."""
    return {**metrics["counters"], **metrics["models"]}


def shown_columns(rows: Mapping[str, Protocols], protocol: str) -> tuple[str, ...]:
    """Metric names of the table's columns: the six, and NLL where a row has it."""
    has_nll = any(row[protocol].get("nll") is not None for row in rows.values() if protocol in row)
    return tuple(c for c in COLUMNS if c != "nll" or has_nll)


def result_rows(rows: Mapping[str, Protocols], protocol: str) -> list[Row]:
    """The table's content: counters first, else in the order given; a row without this protocol is left out.

    The best number of a column is marked, as are those that look the same, unless all do.

    Args:
        rows: {name: {protocol: metrics}}, metrics as `metrics.behavior_metrics` gives them.
        protocol: `natural` or `balanced`.
    """
    columns = shown_columns(rows, protocol)
    made = [
        Row(key, pretty_name(key), tuple(_cell(held[protocol], column) for column in columns))
        for key, held in sorted(rows.items(), key=lambda item: item[0] not in COUNTERS)
        if protocol in held
    ]
    best = [_best([row.cells[i].text for row in made], column) for i, column in enumerate(columns)]
    return [
        replace(row, cells=tuple(replace(c, best=c.text == b) for c, b in zip(row.cells, best, strict=True)))
        for row in made
    ]


def protocol_caption(rows: Mapping[str, Protocols], protocol: str) -> str:
    """One line on what was measured: windows, users, behaviors, and what the intervals are."""
    measured = next((held[protocol] for held in rows.values() if protocol in held), None)
    if measured is None:
        return "no windows measured"
    # Metrics of runs before there was a choice lack it: whole users.
    resampled = measured.get("resampled", {"split": "users", "unit": "users"})
    # The part may be training's, or the dataset another than the model's: no word of what is new in these windows.
    by_time = ", split by time" if resampled["split"] == "time" else ""
    parts = [
        f"{measured['windows']:,} windows of {counted(measured['users'], 'users')}{by_time}",
        f"{measured['behaviors_measured']} of {len(measured['per_behavior'])} behaviors occur",
    ]
    if measured.get("interval"):
        parts.append(f"95 % intervals over {units_counted(resampled)}")
    return "; ".join(parts)


def units_counted(resampled: Mapping[str, Any]) -> str:
    """What intervals are over: users, or so many groups or blocks of days.

    Args:
        resampled: As `Resampling.facts` gives them.
    """
    if resampled["unit"] == "users":
        return "users"
    return counted_units(resampled)


def counted(count: int, things: str) -> str:
    """A number of things, of which there may be one."""
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def results_table(rows: Mapping[str, Protocols], protocol: str) -> Table:
    """Counters and models with the six metrics (and NLL where known), for a terminal.

    Args:
        rows: {name: {protocol: metrics}}; `all_rows` makes it of a run's metrics.json.
        protocol: `natural` or `balanced`.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{protocol} windows",
        caption=protocol_caption(rows, protocol),
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for column in shown_columns(rows, protocol):
        # Left, so that an interval that a narrow terminal wraps stands below its number.
        table.add_column(COLUMNS[column], justify="left" if column in _WITH_INTERVAL else "right")
    made = result_rows(rows, protocol)
    for row, following in zip_longest(made, made[1:]):
        cells = [
            Text.assemble(
                (cell.text, "bold green" if cell.best else ""), (f" {cell.interval}" if cell.interval else "", "dim")
            )
            for cell in row.cells
        ]
        table.add_row(Text(row.name), *cells)
        if row.is_counter and following is not None and not following.is_counter:
            table.add_row()
    return table


def results_markdown(rows: Mapping[str, Protocols], protocol: str) -> str:
    """The same table in Markdown, its caption below it; ends with a newline."""
    names = [COLUMNS[c] for c in shown_columns(rows, protocol)]
    lines = [
        [markdown_text(row.name), *(f"**{c.text}** {c.interval}".rstrip() if c.best else str(c) for c in row.cells)]
        for row in result_rows(rows, protocol)
    ]
    caption = f"{protocol.capitalize()} protocol: {protocol_caption(rows, protocol)}."
    return "\n".join([*markdown_table(["", *names], lines), "", caption]) + "\n"


def history_table(bins: Sequence[Mapping[str, Any]], protocol: str) -> Table:
    """Accuracy by how many events of the user came before the target, a row per bin.

    Args:
        bins: As `evaluation.accuracy_by_history` gives them.
        protocol: Which windows, for the title.
    """
    from rich.table import Table
    from rich.text import Text

    title = f"accuracy by events seen, {protocol}"
    table = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    sources = list(bins[0]["accuracy"]) if bins else []
    for column in ("events", "windows", "users", *sources):
        table.add_column(column, justify="right")
    for held in bins:
        cells = [number(held["accuracy"][source]) for source in sources]
        best = _best(cells, "accuracy")
        shown = [Text(cell, style="bold" if cell == best else "") for cell in cells]
        events = f"{held['from']}–{held['to'] - 1}" if held["to"] is not None else f"{held['from']}+"
        table.add_row(events, str(held["windows"]), str(held["users"]), *shown)
    return table


def stage_effects(metrics: Mapping[str, Any], protocol: str = "balanced") -> list[tuple[str, list[tuple[str, str]]]]:
    """Per group and overall: (value, difference to the stage before) for untuned, A and B, as text."""
    models = [metrics["models"].get(name, {}).get(protocol, {}) for name in _MODELS]
    found = []
    for group in STAGE_ROWS:
        values = [m.get(group) for m in models]
        before = [None, *values[:-1]]
        gains = [None if v is None or b is None else v - b for v, b in zip(values, before, strict=True)]
        found.append((group, [(number(v), difference(g)) for v, g in zip(values, gains, strict=True)]))
    return found


def stage_effect_table(metrics: Mapping[str, Any], protocol: str = "balanced") -> Table:
    """Mean per-class recall of head, medium, tail and overall before and after each stage, with differences.

    Args:
        metrics: A run's metrics.json.
        protocol: Which windows.
    """
    from rich.table import Table
    from rich.text import Text

    title = f"mean recall per behavior, {protocol} windows"
    table = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.add_column("")
    table.add_column(NAMES["untuned"], justify="right")
    for name in _MODELS[1:]:
        table.add_column(NAMES[name], justify="right")
        table.add_column("", justify="left")
    for group, cells in stage_effects(metrics, protocol):
        shown = [Text(cells[0][0])]
        for value, gain in cells[1:]:
            shown += [Text(value), Text(gain, style=_gain_style(gain))]
        table.add_row(Text(group), *shown)
    return table


def candidates_table(predictions: Sequence[Mapping[str, Any]], likely: Sequence[str] | None = None) -> Table:
    """Ranked candidates of one prediction: rank, behavior, probability and a bar whose full length is 100 %.

    Args:
        predictions: `behavior` and `probability` of each, most probable first.
        likely: Behaviors of the likely set, to be marked in a column of their own; None for no such column.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    members = set(likely or ())
    table.add_column("#", justify="right")
    table.add_column("behavior", overflow="fold")
    table.add_column("probability", justify="right")
    if likely is not None:
        table.add_column("likely")
    table.add_column("", no_wrap=True)
    for rank, row in enumerate(predictions, 1):
        share = float(row["probability"])
        bar = Text(_bar(share), style="green" if rank == 1 else "")
        marks = [] if likely is None else ["✓" if row["behavior"] in members else ""]
        table.add_row(str(rank), Text(str(row["behavior"])), f"{share:.1%}", *marks, bar)
    return table


def _cell(metrics: Mapping[str, Any], column: str) -> Cell:
    value = metrics.get(column)
    if value is None:
        return Cell(NONE)
    if column == "nll":
        return Cell(f"{value:.2f}")
    interval = metrics.get("interval", {}).get(column) if column in _WITH_INTERVAL else None
    return Cell(number(value), interval_text(value, interval))


def _best(texts: Sequence[str], column: str) -> str | None:
    known = [text for text in texts if text != NONE]
    if len(set(known)) < 2:
        return None
    return min(known, key=float) if column in _LOWER_IS_BETTER else max(known, key=float)


def _gain_style(gain: str) -> str:
    if gain in (NONE, difference(0.0)):
        return "dim"
    return "green" if gain.startswith("+") else "red"


def _bar(share: float) -> str:
    eighths = round(min(max(share, 0.0), 1.0) * _BAR_CELLS * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")
