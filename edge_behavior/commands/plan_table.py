"""The tables of `edgeb train --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_behavior.train.stage_list import STAGES
from edge_behavior.util.numbers import GIB, duration

if TYPE_CHECKING:
    from rich.table import Table

# `scoring` is of the pool, within B-Tuning.
_SHOWN = ("backbone", "a_tuning", "scoring", "b_tuning", "evaluation")
_TITLES = {name: next((stage.title for stage in STAGES if stage.name == name), name) for name in _SHOWN}
_PARTS = {
    "weights": "weights",
    "adapter": "adapter, gradients, AdamW",
    "optimizer": "gradients, AdamW",
    "activations": "activations kept",
    "logits": "logits of one tile",
    "working": "working memory",
    "scoring": "scoring batch",
    "total": "total",
}


def counts_table(plan: Mapping[str, Any]) -> Table:
    """Samples, tokens and steps."""
    from rich.table import Table

    table = Table("quantity", "value", title="work")
    for key, value in plan.items():
        if isinstance(value, int | str):
            table.add_row(key.replace("_", " "), f"{value:,}" if isinstance(value, int) else value)
    return table


def memory_table(memory: Mapping[str, Any]) -> Table:
    """Peak GiB of every stage, by part."""
    from rich.table import Table

    stages = {title: memory["stages"][name] for name, title in _TITLES.items() if name in memory["stages"]}
    available = f"{memory['device_name']} has {memory['available'] / GIB:.1f} GiB"
    table = Table("peak memory, GiB", *stages, title=f"memory; {available}")
    for column in table.columns[1:]:
        column.justify = "right"
    for part, title in _PARTS.items():
        if any(part in need for need in stages.values()):
            cells = (f"{need[part] / GIB:.2f}" if part in need else "" for need in stages.values())
            table.add_row(title, *cells, style="bold" if part == "total" else None)
    return table


def time_table(time: Mapping[str, Any]) -> Table:
    """How long every stage takes at most."""
    from rich.table import Table

    table = Table("stage", "time", title="time at most")
    table.columns[1].justify = "right"
    for name, title in _TITLES.items():
        if name in time["stages"]:
            table.add_row(title, duration(time["stages"][name]))
    table.add_row("total", duration(time["total"]), style="bold")
    return table
