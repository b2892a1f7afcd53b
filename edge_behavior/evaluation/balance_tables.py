"""The balance dial in lines of text: which τ a bundle was fitted, and what balancing does on held-out windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_behavior.core.candidates import GROUPS
from edge_behavior.evaluation.calibration_tables import whose
from edge_behavior.util.numbers import number

# What is shown of the curve, beside the fitted τ.
_SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
_ROWS = {"accuracy": "accuracy", "overall": "mean recall", **{group: f"  {group}" for group in GROUPS}}
_NAME, _CELL = 13, 6


def balance_lines(balance: Mapping[str, Any], sources: Sequence[str]) -> str:
    """What a manifest's `balance` says of some sources, as a few lines of text.

    Args:
        balance: As `FittedBalance.to_dict` gives it; of a relabeled bundle nothing was measured.
        sources: The sources to show, in this order.
    """
    fitted, measured = balance["fitted"], balance["measured"]
    if not measured:
        return "\n".join(f"{source}: fitted balance {fitted[source]:g}" for source in sources)
    lines = []
    for source in sources:
        lines += _source_lines(fitted[source], measured[source], source)
    lines.append(f"by {measured['windows']} {measured['split']} windows of {whose(measured)}, as they occur")
    return "\n".join(lines)


def _source_lines(fitted: float, measured: Mapping[str, Any], source: str) -> list[str]:
    curve, crossed = measured["curve"], measured["cross_validated"]
    if fitted:
        recall, accuracy = ((curve[name][0], crossed[name]) for name in ("overall", "accuracy"))
        found = f"mean recall {_change(recall)}, accuracy {_change(accuracy)}, cross-validated"
    else:
        found = "no other finds more behaviors in users it was not chosen on"
    shown = [i for i, value in enumerate(curve["balance"]) if value in (*_SHOWN, fitted)]
    heads = [f"{curve['balance'][i]:g}{'*' if curve['balance'][i] == fitted else ''}" for i in shown]
    rows = [[name, *(number(curve[key][i]) for i in shown)] for key, name in _ROWS.items()]
    table = [
        "  " + head.ljust(_NAME) + "".join(cell.rjust(_CELL) for cell in cells)
        for head, *cells in [["balance", *heads], *rows]
    ]
    return [f"{source}: fitted balance {fitted:g}: {found}", *table]


def _change(pair: tuple[float, float]) -> str:
    return " → ".join(map(number, pair))
