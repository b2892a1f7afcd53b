"""Log-linear fusion of a model's distribution with a user's habits, with weights per frequency group.

    score_b = w_model[g(b)] · log p_model(b) + w_habits[g(b)] · log p_habits(b) + bias[g(b)]

and a softmax over the candidates that are allowed. For given habits the score is affine and rising in the model's
log-probability, so an upper bound of one is an upper bound of the other. Knows neither the counter nor the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.habits import read_fields
from edge_behavior.errors import EdgebError

SOURCES = ("model", "habits", "fused")
Floats = NDArray[np.float64]
_LARGEST = 1e3
_DAMAGED_HINT = "the file is damaged or was edited: copy or make it again"


@dataclass(frozen=True)
class GroupWeights:
    """How the candidates of one group are scored; the default is the model alone.

    Attributes:
        model: Factor of the model's log-probability, at least 0.
        habits: Factor of the habits' log-probability, at least 0.
        bias: Added, in nats.
    """

    model: float = 1.0
    habits: float = 0.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
                raise EdgebError(f"fusion weight '{name}' is {str(value)[:40]}, not a usable number", _DAMAGED_HINT)
            if name != "bias" and value < 0:
                raise EdgebError(f"fusion weight '{name}' is {value}", "weights are 0 or more")


@dataclass(frozen=True)
class Fusion:
    """Weights of every group, and which candidate is in which group.

    Attributes:
        weights: Per group: head, medium, tail.
        groups: [B] group of every candidate (`CandidateSet.groups()`).
    """

    weights: Mapping[str, GroupWeights]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        read_fields(dict(self.weights), GROUPS, "fusion")
        unknown = next((name for name in self.groups if name not in GROUPS), None)
        if unknown is not None:
            raise EdgebError(f"unknown group '{unknown}'", f"groups are {', '.join(GROUPS)}")

    def affine(self, habit_log_probs: Floats) -> tuple[Floats, Floats]:
        """(a, c) such that a·log p_model + c is the score; a ≥ 0.

        Args:
            habit_log_probs: [..., B], finite.

        Returns:
            a [B] and c [..., B]. The model's log-probabilities enter as `Predictor.log_probs` gives them, not
            renormalized over the candidates.
        """
        model, habits, bias = self._columns()
        return model, habits * habit_log_probs + bias

    def scores(self, model_log_probs: Floats, habit_log_probs: Floats) -> Floats:
        """Scores [..., B]: `scoring.log_softmax` over the allowed candidates gives the fused distribution."""
        a, c = self.affine(habit_log_probs)
        return np.asarray(a * model_log_probs + c)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready weights per group that `from_dict` reads; the candidates' groups are not in it."""
        return {group: asdict(self.weights[group]) for group in GROUPS}

    @classmethod
    def from_dict(cls, values: object, groups: tuple[str, ...], where: str = "fusion") -> Fusion:
        """Read strictly what `to_dict` gave.

        Args:
            groups: `CandidateSet.groups()`.
            where: The file, for error messages.

        Raises:
            EdgebError: a group or weight that is missing, unknown, negative or not a number.
        """
        found = read_fields(values, GROUPS, where)
        weights = {}
        for group in GROUPS:
            held = read_fields(found[group], ("model", "habits", "bias"), f"{where}.{group}")
            try:
                weights[group] = GroupWeights(**held)
            except EdgebError as error:
                raise EdgebError(f"{where}.{group}: {error.message}", error.hint) from None
        return cls(weights, groups)

    def _columns(self) -> tuple[Floats, Floats, Floats]:
        rows = [self.weights[group] for group in self.groups]
        table = np.array([(w.model, w.habits, w.bias) for w in rows], dtype=np.float64)
        return table[:, 0], table[:, 1], table[:, 2]
