"""The report stage: report.html and the model card."""

from __future__ import annotations

from typing import Any

from edge_behavior.train.stages.context import StageContext
from edge_behavior.train.trainer.processes import is_main


def write_reports(context: StageContext) -> dict[str, Any]:
    """Write report.html and README.md."""
    from edge_behavior.train.report.card import write_card
    from edge_behavior.train.report.page import write_report

    if is_main():
        write_report(context.run, context.dataset)
        write_card(context.run, context.dataset)
    return {}
