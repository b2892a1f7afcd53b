"""Settings of the small transformers over events. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edge_behavior.errors import EdgebError

# Learning rates to search where none are given, the likeliest first.
RATES = (1e-3, 3e-4, 3e-3)


@dataclass(frozen=True)
class SequenceConfig:
    """How SASRec and BERT4Rec are built and trained.

    Attributes:
        hidden: Width d; divisible by `heads`.
        layers: Blocks.
        heads: Attention heads.
        dropout: On embeddings, attention and feed-forward.
        context: Show hour, weekday and place of every event and of the target, as the language model sees them; False
            is the published model, which sees behaviors only.
        hour_bucket: Hours per bucket of the day; divides 24.
        place_events: Places with fewer training events share one embedding.
        mask_share: BERT4Rec: share of the events hidden in a cloze row (the paper's ρ).
        last_only: BERT4Rec: share of the rows that hide the last event only, as a prediction does (the paper adds such
            rows without saying how many).
        batch_size: Stretches per step.
        epochs: Passes over the training stretches, at most.
        least_steps: Steps that are allowed even where the epochs are shorter.
        eval_steps: Fewest steps between two looks at the validation windows.
        patience: Stop after so many looks without a lower loss. BERT4Rec's loss stands still for hundreds of steps
            before it learns to look at other events.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    context: bool = True
    hour_bucket: int = 2
    place_events: int = 5
    mask_share: float = 0.2
    last_only: float = 0.5
    batch_size: int = 32
    epochs: int = 50
    least_steps: int = 2_000
    eval_steps: int = 50
    patience: int = 10

    def __post_init__(self) -> None:
        whole = ("hidden", "layers", "heads", "hour_bucket", "place_events", "batch_size", "epochs", "least_steps")
        for name in (*whole, "eval_steps", "patience"):
            if getattr(self, name) < 1:
                raise EdgebError(f"the setting '{name}' is {getattr(self, name)}", "use 1 or more")
        if self.hidden % self.heads:
            raise EdgebError(f"a width of {self.hidden} cannot be split among {self.heads} heads", "change one of them")
        if 24 % self.hour_bucket:
            raise EdgebError(f"the setting 'hour_bucket' is {self.hour_bucket}", "use a divisor of 24")
        for name, most in (("dropout", 0.999), ("mask_share", 1.0), ("last_only", 1.0)):
            if not 0 <= getattr(self, name) <= most:
                raise EdgebError(f"the setting '{name}' is {getattr(self, name)}", f"use 0 to {most}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)
