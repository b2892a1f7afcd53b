"""A recipe and a log that are enough to run every line; nothing is learned in so few steps."""

from __future__ import annotations

from collections.abc import Iterable

SMALL = [
    "method=two-stage",
    "backbone.hidden_size=64", "backbone.layers=2", "backbone.intermediate_size=96", "backbone.vocab_size=600",
    "backbone.pretrain_tokens=12000", "a_tuning.max_targets=300", "a_tuning.epochs=2", "b_tuning.pool_per_behavior=6",
    "b_tuning.samples_per_behavior=3", "b_tuning.epochs=1", "evaluation.per_user=3", "evaluation.per_behavior=2",
    "evaluation.validation_targets=60", "lora.rank=8", "threads=1",
]  # fmt: skip
LOG = ("data", "synth", "--users", 40, "--days", 12, "--seed", 3)


def set_flags(settings: Iterable[str]) -> list[str]:
    """`--set` for each of them."""
    return [word for setting in settings for word in ("--set", setting)]
