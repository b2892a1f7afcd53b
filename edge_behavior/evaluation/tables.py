"""Tables of results: the same cells for the terminal, Markdown and HTML.

Takes metrics and predictions and computes none. Imports rich only for a terminal table.
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

if TYPE_CHECKING:
    from rich.table import Table

    from edge_behavior.evaluation.habits import HistoryBin
    from edge_behavior.evaluation.metrics import Metrics
    from edge_behavior.evaluation.results import Results
    from edge_behavior.util.resampling import Resampled

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
    "tuned": "plain fine-tuning",
    "fused": "model and habits mixed",
}
# What a comparison of several models shows of each protocol.
COMPARED = (
    ("natural", "weighted_recall"),
    ("natural", "overall"),
    ("natural", "nll"),
    ("balanced", "overall"),
    ("balanced", "head"),
    ("balanced", "medium"),
    ("balanced", "tail"),
)
STAGE_ROWS = (*GROUPS, "overall")
_MODELS = ("untuned", "a_tuning", "b_tuning")
_WITH_INTERVAL = ("weighted_recall", "overall", "tail")
_LOWER_IS_BETTER = ("nll",)
_SYMMETRIC_WITHIN = 0.005
_EIGHTHS = " ▏▎▍▌▋▊▉"
_BAR_CELLS = 20


@dataclass(frozen=True)
class Cell:
    """One number of a results table: its text, its interval's ("" for none), and whether it is its column's best."""

    text: str
    interval: str = ""
    best: bool = False

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


@dataclass(frozen=True)
class SystemRow:
    """One system of a results table: its key, its displayed name, and a cell per column."""

    key: str
    name: str
    cells: tuple[Cell, ...]

    @property
    def is_counter(self) -> bool:
        """Whether it is one of the simple counters."""
        return self.key in COUNTERS


def pretty_name(key: str) -> str:
    """The displayed name of a counter or model, or of `MODEL/SYSTEM`; an unknown key is its own name."""
    model, _, system = key.rpartition("/")
    return f"{model}: {NAMES.get(system, system)}" if model else NAMES.get(key, key)


def interval_text(value: float, interval: Sequence[float] | None) -> str:
    """`±.021` if that gives both ends, else `[.000,.014]`; "" without an interval, or if nothing varies.

    A half-width is shown if it misses neither end by more than .005 and stays inside 0 and 1.
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


def shown_columns(results: Results, protocol: str) -> tuple[str, ...]:
    """Metric names of the table's columns: the six, and NLL if a system has it."""
    has_nll = any(held[protocol].nll is not None for held in results.values() if protocol in held)
    return tuple(c for c in COLUMNS if c != "nll" or has_nll)


def result_rows(results: Results, protocol: str) -> list[SystemRow]:
    """The table's content: counters first, else in the order given; systems without this protocol are left out.

    The best number of a column is marked, as are those that look the same, unless all do.

    Args:
        results: The systems to compare.
        protocol: `natural` or `balanced`.
    """
    return _rows(results, [(protocol, column) for column in shown_columns(results, protocol)])


def protocol_caption(results: Results, protocol: str) -> str:
    """One line on what was measured: windows, users, behaviors, and the units of the intervals."""
    measured = next((held[protocol] for held in results.values() if protocol in held), None)
    if measured is None:
        return "no windows measured"
    # The part may be training's, or the dataset another than the model's: no claim that these windows are new to it.
    by_time = ", split by time" if measured.units.split == "time" else ""
    parts = [
        f"{measured.windows:,} windows of {counted(measured.users, 'users')}{by_time}",
        f"{measured.behaviors_measured} of {len(measured.per_behavior)} behaviors occur",
    ]
    if measured.interval:
        parts.append(f"95 % intervals over {units_counted(measured.units)}")
    return "; ".join(parts)


def units_counted(resampled: Resampled) -> str:
    """The units of intervals: users, or a number of groups or blocks of days."""
    return "users" if resampled.unit == "users" else resampled.counted


def counted(count: int, things: str) -> str:
    """A number of things, in the singular for one."""
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def comparison_columns(results: Results) -> list[tuple[str, str]]:
    """(protocol, metric) of every column of a comparison: those of `COMPARED` that were measured."""
    protocols = {protocol for held in results.values() for protocol in held}
    return [
        (protocol, metric)
        for protocol, metric in COMPARED
        if protocol in protocols and metric in shown_columns(results, protocol)
    ]


def results_table(results: Results, protocol: str) -> Table:
    """The six metrics of every system, and NLL if known, for a terminal.

    Args:
        results: The systems to compare.
        protocol: `natural` or `balanced`.
    """
    shown = shown_columns(results, protocol)
    return _table(
        result_rows(results, protocol),
        {COLUMNS[column]: column in _WITH_INTERVAL for column in shown},
        f"{protocol} windows",
        protocol_caption(results, protocol),
    )


def one_tuned(results: Results) -> Results:
    """A run's systems where stage 2 was off: its two tuned models are one, `tuned`."""
    _, first, last = _MODELS
    return {"tuned" if name == last else name: held for name, held in results.items() if name != first}


def comparison_table(results: Results) -> Table:
    """Several models in one table for a terminal: accuracy as windows occur, recall on balanced ones.

    Args:
        results: Those of a `Comparison`.
    """
    columns = comparison_columns(results)
    captions = dict.fromkeys(protocol for protocol, _ in columns)
    return _table(
        _rows(results, columns),
        {f"{protocol}\n{COLUMNS[metric]}": metric in _WITH_INTERVAL for protocol, metric in columns},
        "all systems",
        "\n".join(f"{protocol}: {protocol_caption(results, protocol)}" for protocol in captions),
    )


def _rows(results: Results, columns: Sequence[tuple[str, str]]) -> list[SystemRow]:
    """A row per system that was measured by the protocols of all columns, the best number of each marked."""
    rows = [
        SystemRow(key, pretty_name(key), tuple(_cell(held[protocol], metric) for protocol, metric in columns))
        for key, held in sorted(results.items(), key=lambda item: item[0] not in COUNTERS)
        if all(protocol in held for protocol, _ in columns)
    ]
    best = [_best([row.cells[i].text for row in rows], metric) for i, (_, metric) in enumerate(columns)]
    return [
        replace(row, cells=tuple(replace(c, best=c.text == b) for c, b in zip(row.cells, best, strict=True)))
        for row in rows
    ]


def _table(rows: Sequence[SystemRow], columns: Mapping[str, bool], title: str, caption: str) -> Table:
    """Rows for a terminal; columns by their header, with whether their cells have intervals."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title,
        caption=caption,
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for header, has_interval in columns.items():
        # Left, so that an interval wrapped by a narrow terminal stands below its number.
        table.add_column(header, justify="left" if has_interval else "right")
    for row, following in zip_longest(rows, rows[1:]):
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


def results_markdown(results: Results, protocol: str) -> str:
    """The same table in Markdown, its caption below it; ends with a newline."""
    names = [COLUMNS[c] for c in shown_columns(results, protocol)]
    caption = f"{protocol.capitalize()} protocol: {protocol_caption(results, protocol)}."
    return "\n".join([*markdown_table(["", *names], _markdown(result_rows(results, protocol))), "", caption]) + "\n"


def comparison_markdown(results: Results) -> str:
    """`comparison_table` in Markdown; ends with a newline."""
    columns = comparison_columns(results)
    names = [f"{protocol} {COLUMNS[metric]}" for protocol, metric in columns]
    captions = [
        f"{protocol.capitalize()} protocol: {protocol_caption(results, protocol)}."
        for protocol in dict.fromkeys(protocol for protocol, _ in columns)
    ]
    return "\n".join([*markdown_table(["", *names], _markdown(_rows(results, columns))), "", *captions]) + "\n"


def _markdown(rows: Sequence[SystemRow]) -> list[list[str]]:
    """The cells of every row, its name first."""
    return [
        [markdown_text(row.name), *(f"**{c.text}** {c.interval}".rstrip() if c.best else str(c) for c in row.cells)]
        for row in rows
    ]


def history_table(bins: Sequence[HistoryBin], protocol: str) -> Table:
    """Accuracy by how many events of the user came before the target, a row per bin.

    Args:
        bins: As `accuracy_by_history` gives them.
        protocol: Name of the windows, for the title.
    """
    from rich.table import Table
    from rich.text import Text

    title = f"accuracy by events seen, {protocol}"
    table = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    sources = list(bins[0].accuracy) if bins else []
    for column in ("events", "windows", "users", *sources):
        table.add_column(column, justify="right")
    for held in bins:
        cells = [number(held.accuracy[source]) for source in sources]
        best = _best(cells, "accuracy")
        shown = [Text(cell, style="bold" if cell == best else "") for cell in cells]
        table.add_row(held.events, str(held.windows), str(held.users), *shown)
    return table


def stage_effects(models: Results, protocol: str = "balanced") -> list[tuple[str, list[tuple[str, str]]]]:
    """Per group and overall: (value, difference to the stage before) of untuned, A and B, as text."""
    found = []
    for group in STAGE_ROWS:
        values = [models[name][protocol].value(group) if name in models else None for name in _MODELS]
        before = [None, *values[:-1]]
        gains = [None if v is None or b is None else v - b for v, b in zip(values, before, strict=True)]
        found.append((group, [(number(v), difference(g)) for v, g in zip(values, gains, strict=True)]))
    return found


def stage_effect_table(models: Results, protocol: str = "balanced") -> Table:
    """Mean recall per behavior, by group and overall, before and after each training stage.

    Args:
        models: `RunMetrics.models`.
        protocol: Name of the windows.
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
    for group, cells in stage_effects(models, protocol):
        shown = [Text(cells[0][0])]
        for value, gain in cells[1:]:
            shown += [Text(value), Text(gain, style=_gain_style(gain))]
        table.add_row(Text(group), *shown)
    return table


def candidates_table(predictions: Sequence[Mapping[str, Any]], likely: Sequence[str] | None = None) -> Table:
    """Ranked candidates of one prediction: rank, behavior, probability and a bar whose full length is 100 %.

    Args:
        predictions: `behavior` and `probability` of each, most probable first.
        likely: Members of the prediction set, marked in a column of their own; None for no such column.
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


def _cell(metrics: Metrics, column: str) -> Cell:
    value = metrics.value(column)
    if value is None:
        return Cell(NONE)
    if column == "nll":
        return Cell(f"{value:.2f}")
    return Cell(number(value), interval_text(value, metrics.interval_of(column) if column in _WITH_INTERVAL else None))


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
