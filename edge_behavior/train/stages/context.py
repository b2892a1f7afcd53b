"""What the stages of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.models import RunModels


@dataclass(frozen=True)
class StageContext:
    """A run in progress. Of several processes, each has one and runs every stage."""

    recipe: Recipe
    dataset: Dataset
    run: RunFolder

    @cached_property
    def models(self) -> RunModels:
        """The run's backbone, tokenizer and adapters."""
        return RunModels(self.run, self.recipe.backbone)

    @cached_property
    def train(self) -> EventTable:
        """Events of the training users."""
        return self.dataset.events("train")

    @cached_property
    def validation(self) -> EventTable:
        """Events of the validation users."""
        return self.dataset.events("validation")

    def folder(self, stage: str) -> Path:
        """Where a stage works."""
        return self.run.path / stage

    def logs(self, stage: str) -> Path:
        """A stage's TensorBoard files."""
        return self.run.path / "logs" / stage
