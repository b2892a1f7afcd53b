"""How a batch is split: into one share per process, and each share into micro-batches.

Pure arithmetic, so that the dry run and training split alike. Knows nothing of trainers and process groups.
"""

from __future__ import annotations

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe, StageConfig


def equal_share(batch_size: int, processes: int, what: str) -> int:
    """How many of a batch's sequences each process takes.

    Args:
        what: The batch size's recipe field, for messages.

    Raises:
        EdgebError: the batch cannot be split equally.
    """
    if batch_size % processes:
        raise EdgebError(
            f"{what} {batch_size} cannot be shared by {processes} processes",
            f"set it to a multiple of {processes}, or start fewer processes",
        )
    return batch_size // processes


def check_shares(recipe: Recipe, processes: int) -> None:
    """Check that every batch of a recipe can be split equally among processes.

    Raises:
        EdgebError: one cannot; the message names its field.
    """
    equal_share(recipe.a_tuning.batch_size, processes, "a_tuning.batch_size")
    equal_share(recipe.b_tuning.batch_size, processes, "b_tuning.batch_size")
    if recipe.backbone.path is None:
        equal_share(recipe.backbone.pretrain_batch_size, processes, "backbone.pretrain_batch_size")


def micro_batch_of(stage: StageConfig, processes: int = 1) -> int:
    """Samples per forward pass of one process: the largest divisor of its share that the recipe allows."""
    share = stage.batch_size // processes
    most = min(stage.micro_batch_size or share, share)
    return next(size for size in range(most, 0, -1) if share % size == 0)
