"""The backbone stage: builds the stand-in where the recipe names no backbone."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from edge_behavior.train.run.folder import replaced_folder
from edge_behavior.train.stages.context import StageContext
from edge_behavior.train.trainer.processes import is_main


def build_backbone(context: StageContext) -> dict[str, Any]:
    """Build the stand-in at `backbone/`; the report is empty where the recipe names a backbone."""
    if context.recipe.backbone.path is not None:
        return {}
    from edge_behavior.train.standin.model import build_standin

    folder, dataset = context.folder("backbone"), context.dataset
    # The main process saves; the others only train along.
    with replaced_folder(folder) if is_main() else nullcontext(folder) as made:
        return build_standin(context.recipe, dataset.candidates, dataset.places, made, context.logs("backbone"))
