"""Calibration in tables and lines of text: what a manifest says of it, and what was measured on windows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge_behavior.core.calibration import Calibration
from edge_behavior.evaluation.calibration import BeforeAfter, CalibrationMetrics
from edge_behavior.evaluation.tables import counted, units_counted
from edge_behavior.util.numbers import NONE, number
from edge_behavior.util.resampling import Resampled

if TYPE_CHECKING:
    from rich.table import Table


def calibration_lines(calibration: Mapping[str, Any], sources: Sequence[str]) -> str:
    """What a manifest's `calibration` says of some sources, as a few lines of text.

    Args:
        calibration: As `FittedCalibration.to_dict` gives it.
        sources: The sources to show, in this order.
    """
    lines, measured = [], calibration["measured"]
    for source in sources:
        held = Calibration.from_dict(calibration[source], f"calibration.{source}")
        found = measured_of(measured[source], f"calibration.measured.{source}")
        bias = ", ".join(f"{group} {value:+.2f}" for group, value in held.bias.items() if value)
        sets = [found.coverage[level] for level in _levels(held.coverage)]
        spoken = [found.precision[level] for level in _levels(held.precision)]
        lines += [
            f"{source}: temperature {held.temperature:.2f}, bias {bias or 'none'}; "
            f"calibration error {_before_after(found.ece)}",
            f"  prediction sets {_slashed(_levels(held.coverage))}: cover {_slashed(number(s.overall) for s in sets)} "
            f"with {_slashed(format(s.size, '.1f') for s in sets)} candidates",
            f"  suggest {_slashed(_levels(held.precision))}: right {_slashed(number(s.precision) for s in spoken)} "
            f"in {_slashed(format(s.share, '.0%') for s in spoken)} of windows",
        ]
    lines.append(f"cross-validated on {measured['windows']} {measured['split']} windows of {whose(measured)}")
    return "\n".join(lines)


def calibration_rows(measured: Mapping[str, CalibrationMetrics]) -> list[list[str]]:
    """A column per source: calibration error, then prediction sets and suggestions per level; header first.

    Args:
        measured: Per source.
    """
    held = list(measured.values())
    rows = [["", *measured]]
    rows.append(["calibration error, before → after", *(_before_after(found.ece) for found in held)])
    for level in held[0].coverage:
        sets = [found.coverage[level] for found in held]
        rows.append(
            [f"prediction set {level}: covers / candidates", *(f"{number(x.overall)} / {x.size:.1f}" for x in sets)]
        )
    for level in held[0].precision:
        spoken = [found.precision[level] for found in held]
        cells = [f"{number(x.precision)} / {x.share:.0%}" if x.suggested else NONE for x in spoken]
        rows.append([f"suggest {level}: right / of windows", *cells])
    return rows


def calibration_table(measured: Mapping[str, CalibrationMetrics], protocol: str) -> Table:
    """Calibration of every source on windows, for a terminal.

    Args:
        measured: Per source.
        protocol: Name of the windows, for the title.
    """
    from rich.table import Table

    title = f"calibration, {protocol}"
    table = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    head, *rows = calibration_rows(measured)
    for column in head:
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    return table


def measured_of(values: Mapping[str, Any], where: str) -> CalibrationMetrics:
    """The measurements of one source in a manifest, which has how it was fitted beside them."""
    return CalibrationMetrics.from_dict({k: v for k, v in values.items() if k not in ("way", "ways")}, where)


def whose(measured: Mapping[str, Any]) -> str:
    """The users that held-out windows are of, with the units that were left out whole where these are others."""
    users = counted(measured["users"], "users")
    # Bundles of earlier versions lack the units, which were users.
    resampled = Resampled(**measured["resampled"]) if "resampled" in measured else None
    if resampled is None or resampled.unit == "users":
        return users
    return f"{users} in {units_counted(resampled)}"


def _levels(levels: Mapping[float, Any]) -> list[str]:
    return [f"{level:g}" for level in levels]


def _before_after(pair: BeforeAfter) -> str:
    return f"{number(pair.before)} → {number(pair.after)}"


def _slashed(texts: Iterable[str]) -> str:
    return "/".join(texts)
