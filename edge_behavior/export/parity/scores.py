"""Scores of the model at every step of an export, on the same windows: what the parity gate compares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.scoring import Floats, log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.export.parity.samples import Samples, SampleSizes, draw_samples
from edge_behavior.export.source import ExportSource
from edge_behavior.util.progress import progress_bar

# The model with its adapter, before merging: what everything is compared with.
REFERENCE = "adapter"
_SEED = 0
_CHUNK = 16


class StageScores:
    """Scores of one export by stage.

    Args:
        source: What is exported.
        encoder: Prompts in the unpruned vocabulary.
        sizes: How many windows to compare on.
        room: Tokens that the runtime's context leaves for a prompt; windows with longer prompts are left out.

    Attributes:
        samples: The windows.
        by_stage: [n, B] log-probabilities by stage, in the order of the stages.

    Raises:
        EdgebError: no prompt fits.
    """

    def __init__(self, source: ExportSource, encoder: PromptEncoder, sizes: SampleSizes, room: int) -> None:
        self._source, self._encoder, self._room = source, encoder, room
        self.sizes = sizes
        self.samples = self.draw(sizes, "validation", _SEED)
        self.by_stage: dict[str, Floats] = {}

    def draw(self, sizes: SampleSizes, split: str, seed: int) -> Samples:
        """Windows whose prompts fit the model.

        Raises:
            EdgebError: no prompt fits.
        """
        drawn = draw_samples(self._source, sizes, split, seed)
        fitting = np.array([len(prompt) <= self._room for prompt in drawn.prompts(self._encoder)])
        if not fitting.any():
            raise EdgebError(
                f"no prompt fits the model: the labels leave {self._room} tokens of its context",
                "use a backbone with a longer context, or train with a shorter history",
            )
        return drawn.take(fitting)

    def score_torch(self, stage: str, model: Any, encoder: PromptEncoder | None = None) -> None:
        """Score a model in PyTorch; `encoder` where its vocabulary is pruned."""
        with progress_bar(f"Scoring ({stage})", len(self.samples)) as advance:
            self.by_stage[stage] = score_torch(model, encoder or self._encoder, self.samples, advance)

    def score_bundle(self, stage: str, path: Path, manifest: Manifest) -> None:
        """Score a converted model; see `score_bundle`."""
        with progress_bar(f"Scoring ({stage})", len(self.samples)) as advance:
            self.by_stage[stage] = score_bundle(path, manifest, self.samples, advance)


def score_torch(model: Any, encoder: PromptEncoder, samples: Samples, advance: Callable[[float], None]) -> Floats:
    """[n, B] log-probabilities among the candidates by a Transformers or PEFT model; `advance` counts windows."""
    from edge_behavior.hf.tree_scoring import TorchScorer

    scorer, prompts = TorchScorer(model, encoder), samples.prompts(encoder)
    scores = []
    for start in range(0, len(prompts), _CHUNK):
        scores.append(scorer.score(prompts[start : start + _CHUNK]).log_probs)
        advance(len(scores[-1]))
    return log_softmax(np.concatenate(scores))


def score_bundle(path: Path, manifest: Manifest, samples: Samples, advance: Callable[[float], None]) -> Floats:
    """[n, B] log-probabilities among the candidates by a GGUF file or ONNX folder, as the runtime computes them.

    Args:
        path: It may still lack its manifest.
        manifest: With the start and end ids of its vocabulary.
        samples: The windows.
        advance: Called with the number of windows just scored.
    """
    from edge_behavior.runtime.predictor import context_needed, open_backend
    from edge_behavior.runtime.ranker import Ranker

    ranker = Ranker(manifest, open_backend(path, context_needed(manifest)))
    try:
        prompts = samples.prompts(ranker.encoder)
        scores = np.empty((len(prompts), len(samples.labels)))
        # Sorted, so that a shared prefix is evaluated once.
        for i in sorted(range(len(prompts)), key=prompts.__getitem__):
            scores[i] = ranker.log_probs(prompts[i], "exact")
            advance(1)
    finally:
        ranker.close()
    return log_softmax(scores)
