"""Training methods by name: what stage 1 learns from, and what stage 2 does, as recipe fields.

Knows neither recipes nor trainers: a method is data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The rule: ahead in accuracy once mixed with habits; of those not told apart, the higher recall of the tail.
DEFAULT_METHOD = "plain"
DEFAULT_REASON = "mixed with habits as often right as two stages, and it finds more rare behaviors"


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        summary: What it does, in half a sentence.
        fields: Its recipe fields as `section.field`, the same ones in every method.
    """

    summary: str
    fields: Mapping[str, Any]


def _method(summary: str, targets: str, aux_ratio: float, class_weights: str, stage_2: str) -> Method:
    return Method(
        summary,
        {
            "a_tuning.targets": targets,
            "a_tuning.aux_ratio": aux_ratio,
            "a_tuning.class_weights": class_weights,
            "b_tuning.method": stage_2,
        },
    )


METHODS: Mapping[str, Method] = {
    "plain": _method("fine-tuning on all behaviors", "all", 0.0, "none", "none"),
    "plain-weighted": _method(
        "the same, with a loss that weighs rare behaviors more", "all", 0.0, "sqrt_inverse", "none"
    ),
    "two-stage": _method(
        "anchors and conversations, then DPO on difficult samples of every behavior", "anchors", 0.05, "none", "dpo"
    ),
    "two-stage-v1": _method(
        "anchors and conversations, then supervised tuning on difficult samples", "anchors", 0.05, "none", "sft"
    ),
}


def method_title(name: str | None, fields: Mapping[str, Mapping[str, Any]]) -> str:
    """A recipe's method in words: its name, and where the recipe departs from it.

    Args:
        name: The method the recipe names; None for one that names none, as recipes of runs before methods had names:
            then the one that does the same, else "custom".
        fields: The resolved recipe's sections.
    """
    if name is None:
        return next((name for name, method in METHODS.items() if not _departures(method, fields)), "custom")
    departures = _departures(METHODS[name], fields)
    return f"{name}, but {', '.join(departures)}" if departures else name


def _departures(method: Method, fields: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = []
    for key, value in method.fields.items():
        section, _, field = key.partition(".")
        if fields[section][field] != value:
            found.append(f"{key}={fields[section][field]}")
    return found
