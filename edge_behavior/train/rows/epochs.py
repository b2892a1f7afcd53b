"""The rows of A-Tuning: event sequences, then conversations, for every epoch (§3.2)."""

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
) -> tuple[list[Rows], dict[str, float]]:
    """Rows of every epoch, their counts per epoch, and the share of the loss that conversations take.

    With `draw: fixed` every epoch has the same rows. Conversations are `aux_ratio` of an epoch's behavior rows, fewer
    where they would take more than `aux_max_loss_share` of the tokens with a loss: with one label per row, a
    conversation's answer outweighs many rows.

    Raises:
        EdgebError: no target that the recipe allows, or a conversation file that cannot be read.
    """
    stage, shuffled = recipe.a_tuning, recipe.layout.candidate_order == "shuffled"
    wanted = max(1, int(np.ceil(stage.epochs)))
    if stage.aux_ratio:
        turns = (
            read_conversations(Path(stage.aux_path))
            if stage.aux_path
            else generated_conversations(train.candidates.labels, recipe.seed)
        )
        conversations = Conversations(turns, tokenizer)
    epochs: list[Rows] = []
    targets, auxiliary, talk, labelled = 0, 0, 0, 0
    drawn = wanted if stage.draw == "fresh" else 1
    for epoch in range(drawn):
        seed = recipe.seed + 1000 * epoch
        rows = behavior_rows(train, encoder, stage, stage.max_targets, seed, shuffled)
        targets += int(rows.targets.sum())
        epochs.append(rows)
        if stage.aux_ratio:
            longest = stage.aux_max_tokens or int(rows.lengths.max())
            extra = conversations.sample(round(stage.aux_ratio * len(rows)), longest, seed)
            extra = extra.at_most(_allowed(int(rows.labelled.sum()), stage.aux_max_loss_share))
            auxiliary += len(extra)
            talk += int(extra.labelled.sum())
            epochs[-1] = JoinedRows([rows, extra])
        labelled += int(epochs[-1].labelled.sum())
    tokens = sum(int(rows.lengths.sum()) for rows in epochs)
    counts: dict[str, float] = {
        "sequences_per_epoch": len(epochs[0]),
        "targets_per_epoch": targets // drawn,
        "conversations_per_epoch": auxiliary // drawn,
        "tokens_per_epoch": tokens // drawn,
        "conversations_loss_share": round(talk / labelled, 4),
    }
    return epochs * (wanted // drawn), counts


def _allowed(labelled: int, share: float | None) -> float:
    """Most tokens with a loss that conversations may add to `labelled` so that they are at most `share` of all."""
    return float("inf") if share is None else labelled * share / (1 - share)
