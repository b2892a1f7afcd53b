"""The tuned language models of a comparison: what each changes in the recipe that it starts from. Data only."""

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
        changes: Recipe fields (`section.field`) and their values.
    """

    title: str
    changes: Mapping[str, Any]


TUNED_SYSTEMS: Mapping[str, TunedSystem] = {
    "untuned": TunedSystem("untuned backbone", {"a_tuning.method": "none", "b_tuning.method": "none"}),
    "plain": TunedSystem("plain fine-tuning", METHODS["plain"].fields),
    "plain_weighted": TunedSystem("fine-tuning, class weights", METHODS["plain-weighted"].fields),
    "two_stage": TunedSystem("two stages (DPO)", METHODS["two-stage"].fields),
    "two_stage_v1": TunedSystem("two stages (SFT)", METHODS["two-stage-v1"].fields),
}
