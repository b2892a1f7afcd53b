"""Tables of calibration for people: what is in a manifest, and what was measured on windows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge_behavior.evaluation.tables import counted, units_counted
from edge_behavior.util.numbers import NONE, number

if TYPE_CHECKING:
    from rich.table import Table


def calibration_lines(calibration: Mapping[str, Any], sources: Sequence[str]) -> str:
    """What a manifest's `calibration` says of some sources, as a few lines of text.

    Args:
        calibration: As `fit.calibrate.fit_calibration` gives it.
        sources: Which ones, in this order.
    """
    lines, measured = [], calibration["measured"]
    for source in sources:
        held, found = calibration[source], measured[source]
        bias = ", ".join(f"{group} {value:+.2f}" for group, value in held["bias"].items() if value)
        sets = [found["coverage"][level] for level in held["coverage"]]
        spoken = [found["precision"][level] for level in held["precision"]]
        lines += [
            f"{source}: temperature {held['temperature']:.2f}, bias {bias or 'none'}; "
            f"calibration error {_before_after(found['ece'])}",
            f"  likely sets {_slashed(held['coverage'])}: cover {_slashed(number(s['overall']) for s in sets)} "
            f"with {_slashed(format(s['size'], '.1f') for s in sets)} candidates",
            f"  suggest {_slashed(held['precision'])}: right {_slashed(number(s['precision']) for s in spoken)} "
            f"in {_slashed(format(s['share'], '.0%') for s in spoken)} of windows",
        ]
    lines.append(
        f"measured on {measured['windows']} {measured['split']} windows of {_whose(measured)}, each by what the others "
        "give"
    )
    return "\n".join(lines)


def calibration_rows(measured: Mapping[str, Any]) -> list[list[str]]:
    """A column per source: calibration error, then per level what likely sets and suggestions do; header first.

    Args:
        measured: Per source what `calibration.measure` gives.
    """
    held = list(measured.values())
    rows = [["", *measured]]
    rows.append(["calibration error, before → after", *(_before_after(found["ece"]) for found in held)])
    for level in held[0]["coverage"]:
        sets = [found["coverage"][level] for found in held]
        rows.append(
            [f"likely set {level}: holds / candidates", *(f"{number(x['overall'])} / {x['size']:.1f}" for x in sets)]
        )
    for level in held[0]["precision"]:
        spoken = [found["precision"][level] for found in held]
        cells = [f"{number(x['precision'])} / {x['share']:.0%}" if x["suggested"] else NONE for x in spoken]
        rows.append([f"suggest {level}: right / of windows", *cells])
    return rows


def calibration_table(measured: Mapping[str, Any], protocol: str) -> Table:
    """Calibration of every source on windows, for a terminal.

    Args:
        measured: Per source what `calibration.measure` gives.
        protocol: Which windows, for the title.
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


def _whose(measured: Mapping[str, Any]) -> str:
    resampled = measured.get("resampled", {"unit": "users"})
    if resampled["unit"] == "users":
        return counted(measured["users"], "users")
    return f"{counted(measured['users'], 'users')} in {units_counted(resampled)}"


def _before_after(pair: Mapping[str, float]) -> str:
    return f"{number(pair['before'])} → {number(pair['after'])}"


def _slashed(texts: Iterable[str]) -> str:
    return "/".join(texts)
