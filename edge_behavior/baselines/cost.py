"""What a fitted system costs: its weights, its training, and the time of a prediction.

Times of two systems are of two hours with their own load. So a prediction is timed turn by turn with a fixed piece of
work in the same process, and shown as the time it would take where that work takes its usual time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from edge_behavior.baselines.system import CostedFit, Ints
from edge_behavior.bench.timing import processor
from edge_behavior.core.fields import NULL, Kind, read_fields
from edge_behavior.data.dataset import EventTable

# Windows that are timed, one at a time, after one that is not.
TIMED = 8
_WIDTH, _PRODUCTS = 512, 8
_FIELDS: Mapping[str, Kind] = {
    "parameters": int,
    "bytes": int,
    "tokens": (int, NULL),
    "seconds": (float, NULL),
    "prediction_seconds": float,
    "reference_seconds": float,
    "ratio": float,
    "machine": str,
}


@dataclass(frozen=True)
class SystemCost:
    """What is recorded of a fitted system.

    Attributes:
        parameters, bytes, tokens, seconds: As in `baselines.system.Cost`.
        prediction_seconds: Median time of a window by itself, every candidate scored, nothing reused.
        reference_seconds: Median time of the reference beside it.
        ratio: Median of the first over the second, window by window.
        machine: What it was measured on.
    """

    parameters: int
    bytes: int
    tokens: int | None
    seconds: float | None
    prediction_seconds: float
    reference_seconds: float
    ratio: float
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object, where: str, hint: str) -> SystemCost:
        """Read strictly.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        return cls(**read_fields(values, _FIELDS, where, hint))


def measure_cost(fitted: CostedFit, table: EventTable, targets: Ints) -> SystemCost:
    """Measure a system that has weights.

    Args:
        fitted: The system.
        table: The events that windows are of.
        targets: [n] windows, two or more; the first `TIMED` + 1 are asked.
    """
    own, beside, ratio = _timed(lambda at: fitted.log_probs(table, targets[at : at + 1]), min(TIMED, len(targets) - 1))
    held = fitted.cost()
    return SystemCost(held.parameters, held.bytes, held.tokens, held.seconds, own, beside, ratio, _machine())


def shown_seconds(costs: Mapping[str, SystemCost], held: SystemCost) -> float:
    """Seconds of a prediction where the reference takes the median of its times beside all systems."""
    return held.ratio * statistics.median(one.reference_seconds for one in costs.values())


def _timed(predict: Callable[[int], object], count: int) -> tuple[float, float, float]:
    predict(0)
    reference = _reference()
    reference()
    pairs = [(_seconds(reference), _seconds(partial(predict, at))) for at in range(1, count + 1)]
    return (
        statistics.median(own for _, own in pairs),
        statistics.median(beside for beside, _ in pairs),
        statistics.median(own / beside for beside, own in pairs),
    )


def _machine() -> str:
    import torch

    return f"{processor()}, {torch.get_num_threads()} threads"


def _reference() -> Callable[[], object]:
    """Products of float32 matrices by PyTorch, with the threads that the process has."""
    import torch

    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=(_WIDTH, _WIDTH)).astype(np.float32))
    return lambda: [torch.mm(matrix, matrix) for _ in range(_PRODUCTS)]


def _seconds(work: Callable[[], object]) -> float:
    begun = perf_counter()
    work()
    return perf_counter() - begun
