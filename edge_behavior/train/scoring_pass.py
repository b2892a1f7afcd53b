"""Scoring windows of an event table with a Transformers model, with progress: pool, validation and test."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.data.dataset import EventTable
from edge_behavior.encoding import PromptEncoder
from edge_behavior.evaluation import Score
from edge_behavior.runtime.torch_scorer import PromptScores, TorchScorer
from edge_behavior.train.model_access import RunModels
from edge_behavior.train.progress import progress_bar
from edge_behavior.train.samples import window_prompt

_CHUNK = 128


def score_windows(
    model: Any, encoder: PromptEncoder, table: EventTable, targets: NDArray[np.int64], title: str, seed: int = 0
) -> PromptScores:
    """Exact log-probabilities [n, B] and embeddings [n, H] of the windows before `targets`.

    Where the layout has several wordings each window draws one at random, as in training (§4.1.4).
    """
    scorer = TorchScorer(model, encoder)
    formats = np.random.default_rng(seed).integers(encoder.layout.formats, size=len(targets))
    parts: list[PromptScores] = []
    with progress_bar() as bar:
        task = bar.add_task(title, total=len(targets), note="")
        for start in range(0, len(targets), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(targets)))
            prompts = [window_prompt(table, encoder, int(targets[i]), int(formats[i])) for i in chunk]
            parts.append(scorer.score(prompts))
            bar.update(task, advance=len(chunk))
    return PromptScores(np.concatenate([p.log_probs for p in parts]), np.concatenate([p.embeddings for p in parts]))


def stage_scorer(models: RunModels, stage: str, table: EventTable, title: str, seed: int) -> Score:
    """A scorer of a run's stage for `evaluation`; the model is loaded when it is first called."""

    def score(targets: NDArray[np.int64]) -> NDArray[np.float64]:
        return score_windows(models.load(stage), models.encoder, table, targets, title, seed).log_probs

    return score
