"""How a batch is cut: into the shares of several processes, and these into micro-batches.

Arithmetic alone, so that planning a run and training it cut alike. Knows no trainer and no process group.
"""

from __future__ import annotations

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe, StageConfig


def equal_share(batch_size: int, processes: int, what: str) -> int:
    """How many of a batch's sequences one process takes.

    Args:
        what: The recipe field of the batch size, for messages.

    Raises:
        EdgebError: the batch cannot be shared equally.
    """
    if batch_size % processes:
        raise EdgebError(
            f"{what} {batch_size} cannot be shared by {processes} processes",
            f"set it to a multiple of {processes}, or start fewer processes",
        )
    return batch_size // processes


def check_shares(recipe: Recipe, processes: int) -> None:
    """See that every batch of a recipe can be shared.

    Raises:
        EdgebError: naming the field of one that cannot.
    """
    equal_share(recipe.a_tuning.batch_size, processes, "a_tuning.batch_size")
    equal_share(recipe.b_tuning.batch_size, processes, "b_tuning.batch_size")
    if recipe.backbone.path is None:
        equal_share(recipe.backbone.pretrain_batch_size, processes, "backbone.pretrain_batch_size")


def micro_batch_of(stage: StageConfig, processes: int = 1) -> int:
    """Samples in one forward pass of one process: the largest divisor of its share that the recipe allows."""
    share = stage.batch_size // processes
    most = min(stage.micro_batch_size or share, share)
    return next(size for size in range(most, 0, -1) if share % size == 0)
