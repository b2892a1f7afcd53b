"""What a caller asks of a prediction, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.candidates import CandidateSet
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.fusion import SOURCES
from edge_behavior.scoring import check_scoring


@dataclass(frozen=True)
class RankedBehavior:
    """One candidate and its probability among the candidates asked for."""

    behavior: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a prediction says and what it cost.

    Attributes:
        ranked: Candidates by falling probability, `top_k` of them. Their order is proven; where candidates were left
            unexpanded, probabilities are lower bounds that miss at most `unexpanded` in all.
        scoring: `exact` or `masked`.
        source: `model`, `habits` or `fused`.
        tokens_evaluated: Tokens the model was run on.
        latency_ms: Wall time of the call, milliseconds.
        decode_ms: Part of it spent inside the inference engine.
        unexpanded: Upper bound of the probability held by candidates that were not looked at to their end.
    """

    ranked: tuple[RankedBehavior, ...]
    scoring: str
    source: str
    tokens_evaluated: int
    latency_ms: float
    decode_ms: float
    unexpanded: float


@dataclass(frozen=True)
class Request:
    """How a prediction is wanted.

    Attributes:
        top_k: How many candidates to return; None for all, which expands the whole trie.
        scoring: `exact` or `masked`, see `scoring`.
        source: `model`, `habits` or `fused`; None takes the bundle's default.
        only: Labels to rank; None for all.
        exclude: Labels to leave out.
        exhaustive: Expand the whole trie, so that every probability is exact.
    """

    top_k: int | None = None
    scoring: str = "exact"
    source: str | None = None
    only: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    exhaustive: bool = False

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise EdgebError(f"top_k is {self.top_k}", "ask for at least one candidate")
        check_scoring(self.scoring)
        if self.source is not None and self.source not in SOURCES:
            raise EdgebError(f"unknown source '{self.source}'", nearest(self.source, SOURCES))

    def allowed(self, candidates: CandidateSet) -> NDArray[np.bool_] | None:
        """Mask [B] of the candidates to rank; None for all.

        Raises:
            EdgebError: a label that is no candidate, or none left.
        """
        if self.only is None and not self.exclude:
            return None
        mask = np.full(len(candidates), self.only is None)
        mask[[candidates.code(label, "only") for label in self.only or ()]] = True
        mask[[candidates.code(label, "exclude") for label in self.exclude]] = False
        if not mask.any():
            raise EdgebError("no candidate is left to rank", "name fewer labels in exclude or more in only")
        return mask
