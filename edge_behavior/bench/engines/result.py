"""What a table of bundles holds; `to_dict` is what `edgeb bench --json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge_behavior.bench.engines.machine import MachineLimits
from edge_behavior.bench.engines.statistics import Estimate
from edge_behavior.bench.engines.work import Work
from edge_behavior.bench.measurement import Budget
from edge_behavior.bench.timing import Machine


@dataclass(frozen=True)
class Cost:
    """A scenario of one bundle.

    Attributes:
        ms: Median wall time.
        over_reference: Median over the windows of its time over the reference's.
        bare_ms: Median time of the engine's same calls alone.
        over_bare: Median over the windows of its time over theirs.
        tokens: Tokens evaluated, median.
        reading_ms: The weights read once at the machine's measured rate; None without limits, or where the
            file does not tell.
        multiplying_ms: The tokens' multiply-adds at its measured peak; likewise.
        samples_ms: Every window's time; `bare_samples_ms` of the calls alone.
    """

    ms: Estimate
    over_reference: Estimate
    bare_ms: Estimate
    over_bare: Estimate
    tokens: float
    reading_ms: float | None
    multiplying_ms: float | None
    samples_ms: Sequence[float]
    bare_samples_ms: Sequence[float]

    @property
    def best_ms(self) -> float | None:
        """What the machine could do at best; None where that is not known."""
        if self.reading_ms is None or self.multiplying_ms is None:
            return None
        return max(self.reading_ms, self.multiplying_ms)

    @property
    def over_best(self) -> float | None:
        """How often longer it took."""
        best = self.best_ms
        return None if best is None else self.ms.value / best

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        best, over = self.best_ms, self.over_best
        return {
            **asdict(self),
            "best_ms": None if best is None else round(best, 4),
            "over_best": None if over is None else round(over, 3),
            "samples_ms": list(self.samples_ms),
            "bare_samples_ms": list(self.bare_samples_ms),
        }


@dataclass(frozen=True)
class BundleRow:
    """A bundle on this machine.

    Attributes:
        name: Its file's name, or its path where two have the same.
        engine: Engine and version.
        quantization: Weight format, as the manifest has it.
        bytes: Size on disk.
        resident_bytes: Peak memory of a process that opens it and predicts once, the mapped file included.
        cold_ms: That process from its start to its answer.
        accuracy: Share of windows whose first candidate is what happened; None where that is made up.
        better, worse: Windows where it is right and the reference wrong, and the other way round; None likewise.
        agreement: Share of windows with the reference's first candidate.
        divergence: Mean Kullback-Leibler divergence of its candidates' probabilities from the reference's, nats.
        work: What its matrix products take; None where the file does not tell.
        costs: By scenario.
        firsts: Its first candidate's code per window, in the order of the windows.
    """

    name: str
    engine: str
    quantization: str
    bytes: int
    resident_bytes: int
    cold_ms: float
    accuracy: Estimate | None
    better: int | None
    worse: int | None
    agreement: Estimate
    divergence: float
    work: Work | None
    costs: Mapping[str, Cost]
    firsts: Sequence[int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **asdict(self),
            "costs": {name: cost.to_dict() for name, cost in self.costs.items()},
            "firsts": list(self.firsts),
        }


@dataclass(frozen=True)
class PeerRow:
    """Another way to an answer, on the same weights.

    Attributes:
        name: What it is.
        on: The file it was run on.
        scenario: What of edgeb's it does the work of.
        ms: Median wall time.
        over_reference: Median over its windows of its time over the reference's.
        predictions: How many were timed.
        agreement: Share of these with the reference's first candidate; None where that is not known.
        samples_ms: Their times.
    """

    name: str
    on: str
    scenario: str
    ms: Estimate
    over_reference: Estimate
    predictions: int
    agreement: Estimate | None
    samples_ms: Sequence[float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "samples_ms": list(self.samples_ms)}


@dataclass(frozen=True)
class Table:
    """Bundles side by side.

    Attributes:
        windows: Predictions per scenario and bundle.
        source: Where the windows are from: `dataset`, `history` or `synthetic`.
        reference: Name of the bundle that others are compared with.
        bundles: As they were given.
        peers: Others on the same weights.
        limits: What the machine can do at best; None where that was not measured.
        advice: Which bundle to take, and why, in a sentence or two.
        notes: What was not measured, and why.
    """

    architecture: str
    candidates: int
    layout: str
    history_length: int
    scoring: str
    windows: int
    source: str
    reference: str
    bundles: Sequence[BundleRow]
    peers: Sequence[PeerRow]
    limits: MachineLimits | None
    advice: str
    notes: Sequence[str]
    machine: Machine
    budget: Budget

    def bundle(self, name: str) -> BundleRow:
        """The row of a bundle."""
        return next(row for row in self.bundles if row.name == name)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "architecture": self.architecture,
            "candidates": self.candidates,
            "layout": self.layout,
            "history_length": self.history_length,
            "scoring": self.scoring,
            "windows": self.windows,
            "source": self.source,
            "reference": self.reference,
            "advice": self.advice,
            "bundles": [row.to_dict() for row in self.bundles],
            "peers": [row.to_dict() for row in self.peers],
            "limits": None if self.limits is None else self.limits.to_dict(),
            "notes": list(self.notes),
            "machine": self.machine.to_dict(),
            "budget": asdict(self.budget),
        }
