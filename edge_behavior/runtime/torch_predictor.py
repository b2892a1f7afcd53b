"""A `Predictor` for a Transformers model in memory, without a bundle. Imports torch."""

from __future__ import annotations

from typing import Any

from edge_behavior import __version__
from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.fusion import Mixture
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.hf.tokenizers import special_ids
from edge_behavior.runtime.backends.torch import TorchBackend, weights_hash
from edge_behavior.runtime.predictor import Predictor


def torch_predictor(
    model: Any,
    tokenizer: Any,
    candidates: CandidateSet,
    layout: PromptLayout,
    habits: Mixture | None = None,
) -> Predictor:
    """A `Predictor` for a model in memory.

    Args:
        model: A Transformers or PEFT model.
        tokenizer: Its fast tokenizer.
        candidates: The labels to predict.
        layout: The layout that the model was trained with.
        habits: As in a manifest; None for the model alone.

    Raises:
        EdgebError: the tokenizer has no end-of-sequence token, or gives two labels the same tokens.
    """
    bos_id, eos_id = special_ids(tokenizer)
    backend = TorchBackend(model, tokenizer)
    manifest = Manifest(
        created_with=f"edgeb {__version__}",
        candidates=candidates,
        layout=layout,
        bos_id=bos_id,
        eos_id=eos_id,
        architecture=str(model.config.model_type),
        quantization=str(model.dtype).removeprefix("torch."),
        context_length=backend.capacity,
        base_model=BaseModelInfo(str(model.config.name_or_path), license=None, weights_sha256=None),
        habits=habits,
        tensors_sha256=weights_hash(model),
    )
    return Predictor(manifest, backend)
