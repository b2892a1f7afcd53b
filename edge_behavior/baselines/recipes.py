"""Tuned language models as systems: changes to a recipe, and nothing else. Trained as `edgeb train` trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_behavior.train.methods import METHODS


@dataclass(frozen=True)
class TunedSystem:
    """A tuned language model.

    Attributes:
        title: As tables show it.
        changes: Recipe fields (`section.field`, or `method`) and their values, over the comparison's recipe.
    """

    title: str
    changes: Mapping[str, Any]


def _by_method(title: str, method: str, **changes: Any) -> TunedSystem:
    return TunedSystem(title, {"method": method, **METHODS[method].fields, **changes})


# GPT-2's smallest shape with random weights. Tuning trains adapters: at the rank of the width, every linear layer can
# become any other; the embeddings, which also give the output, stay random.
_GPT2 = {
    "backbone.path": None,
    "backbone.quantize": "none",
    "backbone.hidden_size": 768,
    "backbone.layers": 12,
    "backbone.heads": 12,
    "backbone.kv_heads": 12,
    "backbone.intermediate_size": 3072,
    "backbone.pretrain_tokens": 0,
    "layout.chat_template": False,
    "lora.rank": 768,
    "lora.alpha": 768,
    "lora.target_modules": "all-linear",
}

TUNED_SYSTEMS: Mapping[str, TunedSystem] = {
    "untuned": _by_method("untuned backbone", "plain", **{"a_tuning.method": "none"}),
    "plain": _by_method("plain fine-tuning", "plain"),
    "plain_weighted": _by_method("plain fine-tuning, class weights", "plain-weighted"),
    "two_stage": _by_method("two stages", "two-stage"),
    "two_stage_v1": _by_method("two stages, the second by SFT", "two-stage-v1"),
    "gpt2": _by_method("GPT-2's shape, random weights", "plain", **_GPT2),
}
