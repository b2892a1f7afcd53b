"""Log-linear fusion of the model's distribution with the user's habits, weighted per frequency group.

    score_b = w_model[g(b)] · log p_model(b) + w_habits[g(b)] · log p_habits(b) + bias[g(b)]

followed by a softmax over the allowed candidates. For given habits the score is affine and increasing in the model's
log-probability, so an upper bound of one is an upper bound of the other. Works on arrays; runs neither model nor
counter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fields import DAMAGED_HINT, naming, read_fields
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.errors import EdgebError

SOURCES = ("model", "habits", "fused")
Floats = NDArray[np.float64]
_LARGEST = 1e3


@dataclass(frozen=True)
class GroupWeights:
    """How the candidates of one group are scored; by default by the model alone.

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
                raise EdgebError(f"fusion weight '{name}' is {str(value)[:40]}, not a usable number", DAMAGED_HINT)
            if name != "bias" and value < 0:
                raise EdgebError(f"fusion weight '{name}' is {value}", "weights are 0 or more")


@dataclass(frozen=True)
class Fusion:
    """Weights per group, and each candidate's group.

    Attributes:
        weights: Per group: head, medium, tail.
        groups: [B] each candidate's group (`CandidateSet.groups()`).
    """

    weights: Mapping[str, GroupWeights]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        read_fields(dict(self.weights), GROUPS, "fusion")
        unknown = next((name for name in self.groups if name not in GROUPS), None)
        if unknown is not None:
            raise EdgebError(f"unknown group '{unknown}'", f"groups are {', '.join(GROUPS)}")

    def affine(self, habit_log_probs: Floats) -> tuple[Floats, Floats]:
        """(a, c) with a·log p_model + c as the score; a ≥ 0.

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
        """JSON-ready weights per group, read by `read_weights`; without the candidates' groups."""
        return {group: asdict(self.weights[group]) for group in GROUPS}

    def _columns(self) -> tuple[Floats, Floats, Floats]:
        rows = [self.weights[group] for group in self.groups]
        table = np.array([(w.model, w.habits, w.bias) for w in rows], dtype=np.float64)
        return table[:, 0], table[:, 1], table[:, 2]


@dataclass(frozen=True)
class Mixture:
    """How a bundle counts habits and mixes them with its model: the manifest's `habits`.

    Attributes:
        config: How habits are counted.
        weights: Fusion weights per group.
        default: The source a prediction answers from unless another is asked for.
        measured: What cross-validation measured of each source; carried along, not read.
    """

    config: HabitsConfig
    weights: Mapping[str, GroupWeights]
    default: str
    measured: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields that `from_dict` reads."""
        return {
            "config": self.config.to_dict(),
            "fusion": Fusion(self.weights, ()).to_dict(),
            "default": self.default,
            "measured": self.measured,
        }

    @classmethod
    def from_dict(cls, values: object, where: str = "habits") -> Mixture:
        """Read strictly what `to_dict` gave.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, {"config": dict, "fusion": dict, "default": str, "measured": dict}, where)
        if found["default"] not in SOURCES:
            raise EdgebError(f"{where}: 'default' is {found['default']!r}", f"known sources are {', '.join(SOURCES)}")
        config = HabitsConfig.from_dict(found["config"], f"{where}.config")
        return cls(config, read_weights(found["fusion"], f"{where}.fusion"), found["default"], found["measured"])


def read_weights(values: object, where: str = "fusion") -> dict[str, GroupWeights]:
    """Fusion weights per group, read strictly from what `Fusion.to_dict` gave.

    Raises:
        EdgebError: a group or weight that is missing, unknown, negative or not a number.
    """
    found, weights = read_fields(values, GROUPS, where), {}
    for group in GROUPS:
        held = read_fields(found[group], ("model", "habits", "bias"), f"{where}.{group}")
        with naming(f"{where}.{group}"):
            weights[group] = GroupWeights(**held)
    return weights
