"""A measurement as a bar chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_behavior.bench.measurement import Measurement
from edge_behavior.bench.peers import PEERS
from edge_behavior.bench.report import TITLES, footing, heading
from edge_behavior.util.files import new_file
from edge_behavior.util.numbers import significant

_OURS, _BOUND, _PEER, _INK, _MUTED = "#1a7f6b", "#9aa5ab", "#c9772e", "#22282b", "#6b7478"
# Not predictions.
_LEFT_OUT = {"prefix_evaluate", "prefix_restore", "prefix_load"}


def bars(result: Measurement) -> list[tuple[str, float, float, str]]:
    """(text, median, 95th percentile, color) per bar, fastest first."""
    found = []
    for name, timing in result.scenarios.items():
        if name not in _LEFT_OUT:
            color = _PEER if name in PEERS else _OURS
            found.append((TITLES[name].replace("`", ""), timing.p50_ms, timing.p95_ms, color))
    if result.comparison is not None:
        p50 = result.comparison.floor["session"].forms["floor"].p50_ms
        found.append(("(d) lower bound: one native decode of as many tokens", p50, p50, _BOUND))
    return sorted(found, key=lambda bar: bar[1])


def draw(result: Measurement, out: Path, force: bool = False) -> None:
    """Write horizontal bars of the median latencies, on a logarithmic axis, with a tick at the 95th percentile.

    Raises:
        EdgebError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter

    rows = bars(result)
    figure = Figure(figsize=(9.6, 0.42 * len(rows) + 1.7), dpi=150, layout="constrained")
    axis = figure.add_subplot()
    places = range(len(rows))
    axis.barh(places, [p50 for _, p50, _, _ in rows], color=[color for *_, color in rows], height=0.68)
    axis.scatter([p95 for _, _, p95, _ in rows], places, marker="|", s=110, color=_INK, linewidths=1.4)
    for place, (_, p50, p95, _) in zip(places, rows, strict=True):
        axis.annotate(
            f"{significant(p50)} ms", (max(p50, p95), place), xytext=(7, 0), textcoords="offset points",
            va="center", fontsize=9, color=_INK,
        )  # fmt: skip
    axis.set_yticks(places, [text for text, *_ in rows], fontsize=9.5)
    axis.invert_yaxis()
    axis.set_xscale("log")
    low, high = min(p50 for _, p50, _, _ in rows), max(p95 for _, _, p95, _ in rows)
    axis.set_xlim(low / 2, high * 4)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axis.set_xlabel("milliseconds per prediction (logarithmic)", fontsize=9.5, color=_INK)
    axis.grid(axis="x", which="major", color="#e3e7e9")
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    kinds = {_OURS: "edgeb", _PEER: "others", _BOUND: "llama.cpp alone"}
    used = {color for *_, color in rows}
    marks: list[Any] = [Patch(color=color, label=text) for color, text in kinds.items() if color in used]
    marks.append(Line2D([], [], color=_INK, marker="|", linestyle="none", markersize=10, label="95th percentile"))
    axis.legend(handles=marks, loc="upper right", frameon=False, fontsize=9)
    figure.suptitle(heading(result), fontsize=10.5, x=0.01, ha="left", color=_INK)
    axis.set_title(footing(result), fontsize=8, loc="right", color=_MUTED)
    with new_file(out, replace=force) as temporary:
        figure.savefig(temporary, format="png")
