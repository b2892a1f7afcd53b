"""Looks at the model at every step of an export: its scores for the parity gate, and what its weights matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.scoring import Floats
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.importance import importance
from edge_behavior.export.gguf.quantize import UNQUANTIZED
from edge_behavior.export.parity.gate import REFERENCE, Samples, draw_samples, sample_sizes, score_bundle, score_torch
from edge_behavior.export.parity.quantization import Unquantized
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.source import ExportSource
from edge_behavior.util.progress import progress_bar

# Neither the gate's windows nor the quantizer's prompts are those that tensors are chosen on.
_GATE_SEED, _SELECTION_SEED, _IMPORTANCE_SEED = 0, 1, 2


class Witness:
    """Scores of one export, step by step.

    Args:
        source: What is exported.
        profile: How many windows and prompts.
        parameters: Weights of the backbone.
        encoder: Of the unpruned vocabulary.
        names: GGUF tensor name by Hugging Face name.
        context: Tokens that the runtime's context will hold.

    Raises:
        EdgebError: no prompt fits.
    """

    def __init__(
        self,
        source: ExportSource,
        profile: ExportProfile,
        parameters: int,
        encoder: PromptEncoder,
        names: dict[str, str],
        context: int,
    ) -> None:
        self.scores: dict[str, Floats] = {}
        self.importance: dict[str, NDArray[np.float32]] = {}
        # Nothing to weigh where nothing is rounded.
        self.prompts = 0 if profile.quant in UNQUANTIZED else profile.importance.prompts
        self._source, self._encoder, self._names = source, encoder, names
        self._room = context - len(encoder.trie)
        self._sizes = sample_sizes(profile.parity, parameters)
        self.samples = self._draw("validation", _GATE_SEED, *self._sizes)

    def observe(self, stage: str, model: Any) -> None:
        """A model in PyTorch: before merging (`adapter`), merged (`merge`)."""
        if stage == REFERENCE or self._source.adapter is not None:
            with progress_bar(f"Scoring ({stage})", len(self.samples)) as advance:
                self.scores[stage] = score_torch(model, self._encoder, self.samples, advance)
        if stage != REFERENCE and self.prompts:
            with progress_bar("Weighing", self.prompts) as advance:
                sequences = self._sequences()
                static = len(self._encoder.static_ids)
                self.importance = importance(model, self._names, sequences, static, advance)

    def score(self, stage: str, path: Path, manifest: Manifest) -> None:
        """An unquantized GGUF file (`convert`, `prune`), or an ONNX folder (`build`)."""
        with progress_bar(f"Scoring ({stage})", len(self.samples)) as advance:
            self.scores[stage] = score_bundle(path, manifest, self.samples, advance)

    def unquantized(self, path: Path, manifest: Manifest) -> Unquantized:
        """All that is needed to quantize the last file scored."""

        def selection() -> Samples:
            return self._draw("train", _SELECTION_SEED, *self._sizes)

        return Unquantized(path, manifest, self.samples, self.scores, selection, self.importance)

    def _draw(self, split: str, seed: int, windows: int, per_behavior: int) -> Samples:
        source = self._source
        drawn = draw_samples(
            source.candidates, source.layout, source.data, windows, per_behavior, split, source.places or (), seed
        )
        fitting = np.array([len(prompt) <= self._room for prompt in drawn.prompts(self._encoder)])
        if not fitting.any():
            raise EdgebError(
                f"no prompt fits the model: {self._room} tokens are left beside the labels",
                "use a backbone with a longer context, or train with a shorter history",
            )
        return drawn.take(fitting)

    def _sequences(self) -> list[tuple[list[int], int]]:
        """Prompts of training users with what happened, or with any label where that is not known."""
        labels = self._encoder.candidates.labels
        samples = self._draw("train", _IMPORTANCE_SEED, self.prompts, 0)
        truth = np.arange(len(samples)) % len(labels) if samples.truth is None else samples.truth
        sequences = []
        for prompt, code in list(zip(samples.prompts(self._encoder), truth, strict=True))[: self.prompts]:
            answer = self._encoder.label_ids(labels[int(code)])
            sequences.append((prompt + answer, len(answer)))
        return sequences
