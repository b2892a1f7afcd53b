"""What evaluations find: metrics.json of a run, and what `edgeb evaluate` reports of a run or bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edge_behavior.core.fields import read_fields
from edge_behavior.evaluation.calibration import CalibrationMetrics
from edge_behavior.evaluation.habits import HistoryBin
from edge_behavior.evaluation.metrics import Metrics

# {system: {protocol: metrics}}: a system is a counter, a run's model after a stage, or a source of a bundle.
Results = Mapping[str, Mapping[str, Metrics]]


@dataclass(frozen=True)
class RunMetrics:
    """What a run measured at its end, as metrics.json holds it.

    Attributes:
        models: Of `untuned`, `a_tuning` and `b_tuning`.
        counters: Of the simple counters.
        anchor_threshold: The recipe's; it decides which behaviors are medium and which tail.
        seed: With which the windows were drawn.
    """

    models: Results
    counters: Results
    anchor_threshold: float
    seed: int

    @property
    def systems(self) -> Results:
        """Counters and models together."""
        return {**self.counters, **self.models}

    @property
    def final(self) -> Mapping[str, Metrics]:
        """Metrics of the final model per protocol."""
        return self.models["b_tuning"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, as in metrics.json."""
        return {
            "models": results_dict(self.models),
            "counters": results_dict(self.counters),
            "anchor_threshold": self.anchor_threshold,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, values: object, where: str = "metrics") -> RunMetrics:
        """Read strictly what `to_dict` gave.

        Args:
            where: The file, for error messages.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, ("models", "counters", "anchor_threshold", "seed"), where)
        models, counters = (read_results(found[name], f"{where}: {name}") for name in ("models", "counters"))
        return cls(models, counters, found["anchor_threshold"], found["seed"])


@dataclass(frozen=True)
class EvaluatedDataset:
    """The dataset a model was measured on.

    Attributes:
        path: Its folder.
        fingerprint: Of its events.
        own: Whether it is the one the model was trained on.
    """

    path: str
    fingerprint: str
    own: bool


@dataclass(frozen=True)
class Evaluation:
    """A model beside the systems it is compared with.

    Attributes:
        results: Metrics of every system, on the same windows.
        subject: Name in `results` of the model that was asked about.
        dataset: What it was measured on.
        recorded: Whether a run's metrics.json held the models' metrics, so that nothing was scored.
        untuned_sha256: Of all that the scores of a run's untuned backbone depend on; None where it was not measured.
    """

    results: Results
    subject: str
    dataset: EvaluatedDataset
    recorded: bool = field(default=False, kw_only=True)
    untuned_sha256: str | None = field(default=None, kw_only=True)

    @property
    def protocols(self) -> tuple[str, ...]:
        """Names of the protocols that were measured."""
        return tuple(self.results[self.subject])

    def to_dict(self) -> dict[str, Any]:
        """`edgeb evaluate --json`: the subject per protocol, all other systems under `baselines`."""
        results = results_dict(self.results)
        return {**results.pop(self.subject), "baselines": results, "dataset": asdict(self.dataset)}


@dataclass(frozen=True)
class MaskedDifference:
    """Share of windows whose first candidate under masked scoring is not that under exact scoring."""

    share: float
    windows: int


@dataclass(frozen=True)
class BundleEvaluation(Evaluation):
    """A bundle's model, the user's habits and both fused; the subject is the source it predicts with.

    Attributes:
        source: Its default source: model, habits or fused.
        by_history: Accuracy per protocol.
        masked_differs: Masked scoring compared with exact scoring.
        calibration: Per protocol and source; None for a bundle without a calibration. Sources without one at their
            balance are left out.
        balance: τ per source, by which rare behaviors were raised (`core.balance`).
        accelerator: What evaluated a LiteRT bundle; None for other bundles.
    """

    source: str
    by_history: Mapping[str, Sequence[HistoryBin]]
    masked_differs: MaskedDifference
    calibration: Mapping[str, Mapping[str, CalibrationMetrics]] | None
    balance: Mapping[str, float]
    accelerator: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """`edgeb evaluate --json` of a bundle."""
        calibration = None
        if self.calibration is not None:
            calibration = {p: {s: m.to_dict() for s, m in held.items()} for p, held in self.calibration.items()}
        found = super().to_dict()
        dataset = found.pop("dataset")
        return {
            "source": self.source,
            "balance": dict(self.balance),
            "accelerator": self.accelerator,
            **found,
            "by_history": {protocol: [held.to_dict() for held in bins] for protocol, bins in self.by_history.items()},
            "masked_differs": asdict(self.masked_differs),
            "calibration": calibration,
            "dataset": dataset,
        }


def results_dict(results: Results) -> dict[str, dict[str, Any]]:
    """Results as JSON-ready dicts."""
    return {name: {p: metrics.to_dict() for p, metrics in held.items()} for name, held in results.items()}


def read_results(values: object, where: str) -> Results:
    """Read strictly what `results_dict` gave.

    Raises:
        EdgebError: a field that is missing, unknown or has a bad value.
    """
    found: dict[str, dict[str, Metrics]] = {}
    for name, held in _items(values, where):
        found[name] = {p: Metrics.from_dict(m, f"{where}.{name}.{p}") for p, m in _items(held, f"{where}.{name}")}
    return found


def _items(values: object, where: str) -> list[tuple[str, Any]]:
    return list(read_fields(values, list(values) if isinstance(values, dict) else [], where).items())
