"""What one trainer call is told, SFT or DPO."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_behavior.train.recipe import Recipe, StageConfig


@dataclass(frozen=True)
class Tuning:
    """One stage's trainer call.

    Attributes:
        recipe: The run's recipe.
        stage: `a_tuning` or `b_tuning`, the recipe's section.
        steps_per_epoch: Optimizer steps.
        max_steps: Optimizer steps of the whole stage.
        folder: Gets `checkpoints`, from which an interrupted call continues, and `adapter`.
        logs: Folder of the TensorBoard files.
    """

    recipe: Recipe
    stage: str
    steps_per_epoch: int
    max_steps: int
    folder: Path
    logs: Path

    @property
    def settings(self) -> StageConfig:
        """The stage's section of the recipe."""
        return self.recipe.tuning(self.stage)
