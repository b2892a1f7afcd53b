"""What a caller asks of a prediction, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.fusion import SOURCES
from edge_behavior.core.scoring import check_scoring
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.runtime.arguments import check_flag, check_labels, check_level, check_text, whole_number


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
        calibrated: Whether the probabilities are calibrated; False for a bundle without calibration, too.
        suggest: Whether to suggest the first candidate at the precision asked for; None if none was.
        likely: The likely set at the coverage asked for, by falling probability; None if none was.
    """

    ranked: tuple[RankedBehavior, ...]
    scoring: str
    source: str
    tokens_evaluated: int
    latency_ms: float
    decode_ms: float
    unexpanded: float
    calibrated: bool = False
    suggest: bool | None = None
    likely: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Request:
    """How a prediction is wanted.

    Raises:
        EdgebError: a value of the wrong type or out of range, or two that do not go together.

    Attributes:
        top_k: How many candidates to return; None for all, which expands the whole trie.
        scoring: `exact` or `masked`, see `scoring`.
        source: `model`, `habits` or `fused`; None takes the bundle's default.
        only: Labels to rank; None for all.
        exclude: Labels to leave out.
        exhaustive: Expand the whole trie, so that every probability is exact.
        calibrated: Calibrate the probabilities where the bundle can; False gives the source's own.
        precision: Decide whether to suggest the first candidate so that suggestions are right this often; a level of
            the manifest's `calibration`. Costs the candidates without which that cannot be told.
        coverage: Name the candidates that hold the truth this often; a level of the manifest's `calibration`. Costs
            the candidates that may be among them, for a high coverage most of the trie.
    """

    top_k: int | None = None
    scoring: str = "exact"
    source: str | None = None
    only: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    exhaustive: bool = False
    calibrated: bool = True
    precision: float | None = None
    coverage: float | None = None

    def __post_init__(self) -> None:
        if self.top_k is not None:
            object.__setattr__(self, "top_k", whole_number(self.top_k, "top_k", 1, "candidates"))
        check_text(self.scoring, "scoring")
        check_scoring(self.scoring)
        if self.source is not None:
            check_text(self.source, "source")
            if self.source not in SOURCES:
                raise EdgebError(f"unknown source '{self.source}'", nearest(self.source, SOURCES))
        if self.only is not None:
            check_labels(self.only, "only")
        check_labels(self.exclude, "exclude")
        for name in ("exhaustive", "calibrated"):
            check_flag(getattr(self, name), name)
        for name in ("precision", "coverage"):
            if getattr(self, name) is not None:
                check_level(getattr(self, name), name)
        if self.precision is not None or self.coverage is not None:
            if not self.calibrated:
                raise EdgebError("precision and coverage were measured on calibrated values", "do not ask for raw ones")
            if self.only is not None or self.exclude:
                raise EdgebError(
                    "precision and coverage were measured over all candidates", "leave out only and exclude"
                )

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
