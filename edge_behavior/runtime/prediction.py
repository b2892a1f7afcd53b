"""What a caller can ask of a prediction, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.balance import Balance, check_balance
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.fusion import SOURCES
from edge_behavior.core.scoring import check_scoring
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.runtime.arguments import check_flag, check_labels, check_level, check_text


@dataclass(frozen=True)
class RankedBehavior:
    """One candidate and its probability among the candidates ranked."""

    behavior: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The ranked candidates, the decisions asked for, and what the prediction cost.

    Attributes:
        ranked: The first `top_k` candidates. Their order is proven. Where candidates were left unexpanded, the
            probabilities are lower bounds, short of the true ones by at most `unexpanded` in all.
        scoring: `exact` or `masked`.
        source: `model`, `habits` or `fused`.
        tokens_evaluated: Tokens the model was run on.
        latency_ms: Wall time of the call, milliseconds.
        decode_ms: Part of it spent inside the inference engine.
        unexpanded: Upper bound of the probability that candidates not fully evaluated hold; 0 means exact.
        calibrated: Whether the probabilities are calibrated.
        balance: τ by which rare behaviors were raised, see `core.balance`.
        suggest: Whether to suggest the first candidate at the requested precision; None if none was requested.
        likely: The prediction set at the requested coverage, most probable first; None if none was requested.
    """

    ranked: tuple[RankedBehavior, ...]
    scoring: str
    source: str
    tokens_evaluated: int
    latency_ms: float
    decode_ms: float
    unexpanded: float
    calibrated: bool = False
    balance: float = 0.0
    suggest: bool | None = None
    likely: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PredictOptions:
    """What a caller may choose of a prediction beyond history, context and `top_k`.

    Raises:
        EdgebError: a value of the wrong type or out of range, or two that do not go together.

    Attributes:
        scoring: `exact` or `masked`, see `core.scoring`.
        source: `model`, `habits` or `fused`; None takes the bundle's default.
        only: Labels to rank; None for all.
        exclude: Labels to leave out.
        exhaustive: Expand the whole trie, so that probabilities are exact and not lower bounds.
        calibrated: Calibrate the probabilities where the bundle can; False returns the source's own.
        precision: Decide whether to suggest the first candidate, so that suggestions are right this often; a level of
            the manifest's `calibration`. Candidates that could change the decision are evaluated too.
        coverage: Return the prediction set that holds the truth this often; a level of the manifest's `calibration`.
            Candidates that could belong to it are evaluated too: for a high coverage, most of the trie.
        balance: τ from 0 (right most often) to 2, by which rare behaviors are raised, see `core.balance`; "fitted"
            takes the bundle's for the source. Probabilities are calibrated at 0 and at the fitted τ, elsewhere raw, and
            precision and coverage are refused.
    """

    scoring: str = "exact"
    source: str | None = None
    only: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    exhaustive: bool = False
    calibrated: bool = True
    precision: float | None = None
    coverage: float | None = None
    balance: Balance = 0.0

    def __post_init__(self) -> None:
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
        object.__setattr__(self, "balance", check_balance(self.balance))
        if self.precision is not None or self.coverage is not None:
            if not self.calibrated:
                raise EdgebError("precision and coverage were measured on calibrated values", "ask for calibrated ones")
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


DEFAULT_OPTIONS = PredictOptions()
