"""The rows of A-Tuning: a fresh draw of event sequences for every epoch, then conversations (§3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.data.dataset import EventTable
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.rows.conversations import Conversations, generated_conversations, read_conversations
from edge_behavior.train.rows.lazy import JoinedRows, Rows
from edge_behavior.train.rows.samples import behavior_rows


def a_tuning_rows(
    train: EventTable, encoder: PromptEncoder, tokenizer: Any, recipe: Recipe
) -> tuple[list[Rows], dict[str, int]]:
    """Rows of every epoch, and their counts per epoch: sequences, targets, conversations and tokens.

    Raises:
        EdgebError: no target that the recipe allows, or a conversation file that cannot be read.
    """
    stage = recipe.a_tuning
    wanted = max(1, int(np.ceil(stage.epochs)))
    if stage.aux_ratio:
        turns = (
            read_conversations(Path(stage.aux_path))
            if stage.aux_path
            else generated_conversations(train.candidates.labels, recipe.seed)
        )
        conversations = Conversations(turns, tokenizer)
    epochs: list[Rows] = []
    targets, auxiliary = 0, 0
    for epoch in range(wanted):
        seed = recipe.seed + 1000 * epoch
        rows = behavior_rows(train, encoder, stage, stage.max_targets, seed)
        targets += int(rows.targets.sum())
        epochs.append(rows)
        if stage.aux_ratio:
            longest = stage.aux_max_tokens or int(rows.lengths.max())
            extra = conversations.sample(round(stage.aux_ratio * len(rows)), longest, seed)
            auxiliary += len(extra)
            epochs[-1] = JoinedRows([rows, extra])
    tokens = sum(int(rows.lengths.sum()) for rows in epochs)
    counts = {
        "sequences_per_epoch": len(epochs[0]),
        "targets_per_epoch": targets // wanted,
        "conversations_per_epoch": auxiliary // wanted,
        "tokens_per_epoch": tokens // wanted,
    }
    return epochs, counts
