"""The parity gate: how far every step of an export moved the predictions, and whether that is too far.

The reference is the PyTorch model with its adapter, before merging. All numbers are of the distribution over the
candidates, computed in full, on windows of validation users. Knows distributions only; `scores` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.scoring import Floats
from edge_behavior.errors import GateError
from edge_behavior.evaluation.metrics import Outcome, behavior_metrics
from edge_behavior.export.parity.samples import Samples
from edge_behavior.export.parity.scores import REFERENCE
from edge_behavior.export.profiles import ParitySettings

# Candidates below this probability in the reference do not count for `max_log_prob`: they decide nothing.
_COUNTED = 1e-3
# Standard errors beyond which a loss of accuracy is one.
CERTAIN = 2.0
# Windows that a format is tried on at least.
_FEWEST = 8
_LIMITS = {"max_flips", "max_kl", "max_accuracy_loss", "max_tail_loss"}


@dataclass(frozen=True)
class Difference:
    """How far the distributions of one model are from another's.

    Attributes:
        flips: Share of windows with another first candidate.
        mean_kl: Mean KL(reference ‖ found), nats.
        max_kl: The largest.
        max_log_prob: Largest difference of a log-probability, of candidates with .001 or more in the reference.
    """

    flips: float
    mean_kl: float
    max_kl: float
    max_log_prob: float

    @classmethod
    def between(cls, reference: Floats, found: Floats) -> Difference:
        """Compare two [n, B] arrays of log-probabilities."""
        divergences = _divergences(reference, found)
        counted = np.exp(reference) >= _COUNTED
        return cls(
            flips=float((reference.argmax(1) != found.argmax(1)).mean()),
            mean_kl=float(divergences.mean()),
            max_kl=float(divergences.max()),
            max_log_prob=float(np.abs(reference - found)[counted].max()),
        )


@dataclass(frozen=True)
class Accuracies:
    """How often the first candidate is the true one; None where it was not measured.

    Attributes:
        accuracy: On natural windows.
        head: Mean recall of frequent behaviors, on balanced windows.
        medium: The same for those of medium frequency.
        tail: And for rare ones.
    """

    accuracy: float | None = None
    head: float | None = None
    medium: float | None = None
    tail: float | None = None

    @classmethod
    def of(cls, scores: Floats, samples: Samples) -> Accuracies:
        """Measure [n, B] log-probabilities; nothing is known on synthetic windows."""
        if samples.truth is None:
            return cls()
        accuracy, recalls, balanced = None, {}, samples.balanced
        if samples.natural.any():
            accuracy = float((scores.argmax(1) == samples.truth)[samples.natural].mean())
        if balanced.any():
            outcome = Outcome(scores[balanced], samples.truth[balanced], samples.users[balanced])
            metrics = behavior_metrics(outcome, samples.labels, samples.groups, resamples=0)
            recalls = {group: metrics.value(group) for group in GROUPS}
        return cls(accuracy, **recalls)

    def loss(self, after: Accuracies, name: str) -> float | None:
        """How much of an accuracy (`accuracy`, `tail`) is lost in `after`; None where it was not measured."""
        before, found = getattr(self, name), getattr(after, name)
        return None if before is None or found is None else float(before - found)


@dataclass(frozen=True)
class StageParity:
    """The model after one step of the export.

    Attributes:
        total: Against the reference.
        accuracies: Its own; of a step that was compared on some windows only, none.
        step: Against the step before, on the windows of both.
        windows: How many windows it was compared on.
    """

    total: Difference
    accuracies: Accuracies
    step: Difference
    windows: int

    def to_dict(self) -> dict[str, Any]:
        """As manifests and `--json` have it: the total and the accuracies flat, then `step` and `windows`."""
        return {**asdict(self.total), **asdict(self.accuracies), "step": asdict(self.step), "windows": self.windows}


@dataclass(frozen=True)
class RecoveryTrial:
    """A quantized file with some kinds of tensors kept at 8 bits.

    Attributes:
        kept: Kinds of tensors, as `quantize` takes them.
        loss: Mean KL divergence from the unquantized model on windows of training users, nats.
        size: Bytes.
    """

    kept: tuple[str, ...]
    loss: float
    size: int

    def to_dict(self) -> dict[str, Any]:
        """As manifests and `--json` have it."""
        return {"kept": list(self.kept), "mean_kl": self.loss, "bytes": self.size}


@dataclass(frozen=True)
class Recovery:
    """What was tried where quantization hurt the tail.

    Attributes:
        trials: All measurements, in order.
        kept: Kinds of tensors that stayed at 8 bits; empty if that did not help.
        before: The quantized model without them; None if none is kept.
        skipped: Why nothing was tried; "" otherwise.
    """

    trials: tuple[RecoveryTrial, ...]
    kept: tuple[str, ...] = ()
    before: StageParity | None = None
    skipped: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As manifests and `--json` have it."""
        return {
            "trials": [trial.to_dict() for trial in self.trials],
            "kept": list(self.kept),
            "adopted": bool(self.kept),
            "before": None if self.before is None else self.before.to_dict(),
            "skipped": self.skipped,
        }


@dataclass(frozen=True)
class ParityReport:
    """What the gate measured.

    Attributes:
        windows: How many windows.
        natural: How many of them are natural ones.
        balanced: How many were drawn for their behavior.
        held_out: Whether they are of held-out users; synthetic otherwise.
        reference: Accuracies of the model before merging.
        stages: The model after every step that took place, in order.
        limits: The profile's.
        exceeded: What of the finished model is beyond them, in words.
        tried: Formats that were beyond the limits before this one, with what they exceeded.
        recovery: What was tried to help the tail; None if nothing was.
    """

    windows: int
    natural: int
    balanced: int
    held_out: bool
    reference: Accuracies
    stages: Mapping[str, StageParity]
    limits: Mapping[str, float]
    exceeded: list[str]
    tried: Mapping[str, list[str]] = field(default_factory=dict)
    recovery: Recovery | None = None

    @property
    def last(self) -> StageParity:
        """The finished model."""
        return list(self.stages.values())[-1]

    def to_dict(self) -> dict[str, Any]:
        """As manifests and `--json` have it."""
        return {
            "windows": self.windows,
            "natural": self.natural,
            "balanced": self.balanced,
            "held_out": self.held_out,
            "reference": asdict(self.reference),
            "stages": {name: stage.to_dict() for name, stage in self.stages.items()},
            "limits": dict(self.limits),
            "exceeded": self.exceeded,
            "tried": dict(self.tried),
            "recovery": None if self.recovery is None else self.recovery.to_dict(),
        }


def parity_report(by_stage: Mapping[str, Floats], samples: Samples, settings: ParitySettings) -> ParityReport:
    """Measure every stage.

    Args:
        by_stage: [n, B] log-probabilities by stage in order, `REFERENCE` first; rows of windows that a stage was not
            compared on are not numbers.
        samples: The windows.
        settings: The limits.
    """
    reference = before = by_stage[REFERENCE]
    stages = {}
    for name, scores in by_stage.items():
        if name != REFERENCE:
            rows = is_scored(scores)
            both = rows & is_scored(before)
            stages[name] = StageParity(
                total=Difference.between(reference[rows], scores[rows]),
                accuracies=Accuracies.of(scores, samples) if rows.all() else Accuracies(),
                step=Difference.between(before[both], scores[both]),
                windows=int(rows.sum()),
            )
            before = scores
    known, errors = Accuracies.of(reference, samples), loss_errors(reference, before, samples)
    return ParityReport(
        windows=len(samples),
        natural=int(samples.natural.sum()),
        balanced=int(samples.balanced.sum()),
        held_out=samples.truth is not None,
        reference=known,
        stages=stages,
        limits=settings.model_dump(include=_LIMITS),
        exceeded=exceeded(known, list(stages.values())[-1], settings, errors),
    )


def is_scored(scores: Floats) -> NDArray[np.bool_]:
    """[n] the windows that a stage was compared on."""
    return np.asarray(~np.isnan(scores).any(1))


def loss_errors(before: Floats, after: Floats, samples: Samples) -> dict[str, float]:
    """Standard error of the losses of `accuracy` and of the tail's mean recall, window by window; none where unknown.

    Both models answer the same windows, so that only windows whose answer turned from right to wrong or back add to it.
    """
    if samples.truth is None:
        return {}
    turned = (before.argmax(1) == samples.truth).astype(float) - (after.argmax(1) == samples.truth)
    tail = samples.balanced & (np.array(samples.groups)[samples.truth] == "tail")
    kinds = {"accuracy": samples.natural, "tail": tail}
    return {name: float(turned[of].std() / np.sqrt(of.sum())) for name, of in kinds.items() if of.any()}


def exceeded(
    reference: Accuracies, last: StageParity, settings: ParitySettings, errors: Mapping[str, float]
) -> list[str]:
    """What of the finished model is beyond the limits, in words; empty if nothing is.

    Few windows say little: flips count beyond their standard error, losses (whose standard errors are `errors`) beyond
    two.
    """
    found, total = [], last.total
    if total.flips - float(np.sqrt(total.flips * (1 - total.flips) / last.windows)) > settings.max_flips:
        found.append(f"another first candidate in {total.flips:.1%} of the windows (limit {settings.max_flips:.1%})")
    if total.mean_kl > settings.max_kl:
        found.append(f"KL {total.mean_kl:.2g} (limit {settings.max_kl:.2g})")
    for key, name, limit in (
        ("accuracy", "accuracy", settings.max_accuracy_loss),
        ("tail", "the tail's mean recall", settings.max_tail_loss),
    ):
        loss = reference.loss(last.accuracies, key)
        if loss is not None and loss > max(limit, CERTAIN * errors.get(key, 0.0)):
            found.append(f"{name} lower by {loss:.3f} (limit {limit:.3f})")
    return found


def _divergences(reference: Floats, found: Floats) -> Floats:
    """[n] KL(reference ‖ found) of each window, nats."""
    return np.asarray((np.exp(reference) * (reference - found)).sum(1))


def surely_exceeded(reference: Floats, scores: Floats, settings: ParitySettings) -> bool:
    """Whether flips or KL of the windows so far are beyond a limit by more than two standard errors.

    Args:
        reference: [n, B] log-probabilities.
        scores: [n, B]; rows of windows that have not been scored are not numbers.
        settings: The limits.
    """
    rows = is_scored(scores)
    if rows.sum() < _FEWEST:
        return False
    before, after = reference[rows], scores[rows]
    flips = (before.argmax(1) != after.argmax(1)).astype(float)
    return any(
        float(values.mean() - CERTAIN * values.std(ddof=1) / np.sqrt(len(values))) > limit
        for values, limit in ((_divergences(before, after), settings.max_kl), (flips, settings.max_flips))
    )


class ParityError(GateError):
    """The finished model is too far from the trained one. `report` says by how much."""

    def __init__(self, quant: str, report: ParityReport) -> None:
        super().__init__(
            f"{quant} changes the predictions: {'; '.join(report.exceeded)}",
            "try --quant auto or a finer format, or accept it with --allow-loss",
        )
        self.report = report
