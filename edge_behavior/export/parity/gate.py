"""The parity gate: what every step of the export changed about the predictions, and whether that is too much.

The reference is the PyTorch model with its adapter, before merging. All numbers are of the exact distribution over
the candidates on windows of validation users. Knows distributions only: `score_torch` and `score_bundle` make them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.candidates import GROUPS, CandidateSet
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import UNKNOWN_PLACE, BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.scoring import Floats, log_softmax
from edge_behavior.errors import GateError
from edge_behavior.evaluation.metrics import Outcome, behavior_metrics
from edge_behavior.export.profiles import ParitySettings

REFERENCE = "adapter"
# A GGUF file is converted, pruned and quantized, an ONNX folder built.
STAGES = ("merge", "convert", "prune", "quantize", "build")
# Windows as they occur and per behavior, where the profile does not say; the first for backbones up to so many weights.
SMALL_BACKBONE = 100_000_000
WINDOWS, PER_BEHAVIOR = (200, 60), (5, 1)
# Made-up questions at most.
_MADE_UP = 60
# Below so much probability in the reference, a candidate's log-probability decides nothing.
_COUNTED = 1e-3
_CHUNK = 16

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """A history and the context asked about."""

    history: tuple[BehaviorEvent, ...]
    when: datetime
    place: str


@dataclass(frozen=True)
class Samples:
    """Held-out windows to compare models on.

    Attributes:
        questions: n of them.
        truth: [n] candidate codes of what happened; None where the questions are made up.
        users: [n] user codes.
        natural: [n] whether the window was drawn as windows occur.
        balanced: [n] whether it was drawn for its behavior.
        labels: [B].
        groups: [B] head, medium or tail.
    """

    questions: tuple[Question, ...]
    truth: Ints | None
    users: Ints
    natural: NDArray[np.bool_]
    balanced: NDArray[np.bool_]
    labels: tuple[str, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, rows: NDArray[np.bool_]) -> Samples:
        """Some of the windows."""
        return replace(
            self,
            questions=tuple(q for q, kept in zip(self.questions, rows, strict=True) if kept),
            truth=None if self.truth is None else self.truth[rows],
            users=self.users[rows],
            natural=self.natural[rows],
            balanced=self.balanced[rows],
        )

    def prompts(self, encoder: PromptEncoder) -> list[list[int]]:
        """Token ids of every question; wordings of a layout that has several take turns."""
        formats = encoder.layout.formats
        return [encoder.prompt_ids(q.history, q.when, q.place, i % formats) for i, q in enumerate(self.questions)]


def draw_samples(
    candidates: CandidateSet,
    layout: PromptLayout,
    data: Path | None,
    windows: int,
    per_behavior: int,
    split: str = "validation",
    places: Sequence[str] = (),
    seed: int = 0,
) -> Samples:
    """Windows of a dataset's users, or made-up questions where there is no dataset or it has no full history.

    Args:
        data: Dataset folder with the same candidates, or None.
        windows: As they occur.
        per_behavior: Of each behavior besides.
        places: For made-up questions.
    """
    if data is not None:
        # Here, since an export without a dataset needs no pyarrow.
        from edge_behavior.data.dataset import Dataset
        from edge_behavior.data.windows import balanced_windows, natural_windows

        table, length = Dataset.open(data).events(split), layout.history_length
        natural = natural_windows(table, length, limit=windows, seed=seed)
        balanced = balanced_windows(table, per_behavior, length, seed=seed)
        targets = np.union1d(natural, balanced)
        if len(targets):
            events = [table.event(int(i)) for i in targets]
            histories = [tuple(table.history(int(i), length)) for i in targets]
            return Samples(
                tuple(Question(h, e.time, e.place) for h, e in zip(histories, events, strict=True)),
                table.behavior[targets].astype(np.int64),
                table.user_of(targets),
                np.isin(targets, natural),
                np.isin(targets, balanced),
                candidates.labels,
                candidates.groups(),
            )
    from edge_behavior.export.synthetic_events import questions

    count = min(windows, _MADE_UP)
    made = [Question(*q) for q in questions(candidates, layout, places or (UNKNOWN_PLACE,), count, seed)]
    no, yes = np.zeros(len(made), dtype=bool), np.ones(len(made), dtype=bool)
    return Samples(tuple(made), None, np.arange(len(made)), yes, no, candidates.labels, candidates.groups())


def sample_sizes(settings: ParitySettings, parameters: int) -> tuple[int, int]:
    """(windows as they occur, windows per behavior) for a backbone of so many weights."""
    large = int(parameters > SMALL_BACKBONE)
    windows = WINDOWS[large] if settings.windows is None else settings.windows
    return windows, PER_BEHAVIOR[large] if settings.per_behavior is None else settings.per_behavior


def score_torch(model: Any, encoder: PromptEncoder, samples: Samples, advance: Callable[[float], None]) -> Floats:
    """[n, B] log-probabilities among the candidates by a Transformers or PEFT model; `advance` counts windows."""
    from edge_behavior.hf.tree_scoring import TorchScorer

    scorer, prompts = TorchScorer(model, encoder), samples.prompts(encoder)
    rows = []
    for start in range(0, len(prompts), _CHUNK):
        rows.append(scorer.score(prompts[start : start + _CHUNK]).log_probs)
        advance(len(rows[-1]))
    return log_softmax(np.concatenate(rows))


def score_bundle(path: Path, manifest: Manifest, samples: Samples, advance: Callable[[float], None]) -> Floats:
    """[n, B] log-probabilities among the candidates by a GGUF file or ONNX folder, as the runtime computes them.

    Args:
        path: It need not carry a manifest yet.
        manifest: With the start and end ids of its vocabulary.
    """
    from edge_behavior.runtime.engine import Engine
    from edge_behavior.runtime.predictor import context_needed, open_backend

    engine = Engine(manifest, open_backend(path, context_needed(manifest)))
    try:
        prompts = samples.prompts(engine.encoder)
        scores = np.empty((len(prompts), len(samples.labels)))
        # Equal beginnings are evaluated once.
        for i in sorted(range(len(prompts)), key=prompts.__getitem__):
            scores[i] = engine.log_probs(prompts[i], "exact")
            advance(1)
    finally:
        engine.close()
    return log_softmax(scores)


def difference(reference: Floats, found: Floats) -> dict[str, float]:
    """How one distribution per window differs from another.

    Returns:
        `flips`: share of windows with another first candidate; `mean_kl`, `max_kl`: KL(reference ‖ found) in nats;
        `max_log_prob`: largest difference of a log-probability, over candidates that the reference gives .001 or more.
    """
    divergences = (np.exp(reference) * (reference - found)).sum(1)
    counted = np.exp(reference) >= _COUNTED
    return {
        "flips": float((reference.argmax(1) != found.argmax(1)).mean()),
        "mean_kl": float(divergences.mean()),
        "max_kl": float(divergences.max()),
        "max_log_prob": float(np.abs(reference - found)[counted].max()),
    }


def accuracies(scores: Floats, samples: Samples) -> dict[str, float | None]:
    """`accuracy` on natural windows, mean recall of `head`, `medium`, `tail` on balanced ones; None without one."""
    found: dict[str, float | None] = dict.fromkeys(("accuracy", *GROUPS))
    if samples.truth is None:
        return found
    hits = scores.argmax(1) == samples.truth
    if samples.natural.any():
        found["accuracy"] = float(hits[samples.natural].mean())
    if samples.balanced.any():
        rows = samples.balanced
        outcome = Outcome(scores[rows], samples.truth[rows], samples.users[rows])
        metrics = behavior_metrics(outcome, samples.labels, samples.groups, resamples=0)
        found.update({group: metrics.value(group) for group in GROUPS})
    return found


def parity_report(scores: Mapping[str, Floats], samples: Samples, settings: ParitySettings) -> dict[str, Any]:
    """The gate's table.

    Args:
        scores: [n, B] log-probabilities by stage, `REFERENCE` first, then those of `STAGES` that took place, in order.

    Returns:
        JSON-ready: `windows`, `natural`, `balanced`, `held_out` (false where the questions were made up), `reference`
        (accuracies), `stages`: per stage `difference` to the reference and accuracies of all that was done up to
        there, and `step`, the difference to the stage before; `limits`, `exceeded` (what is beyond them, in words).
    """
    reference = scores[REFERENCE]
    before, stages = reference, {}
    for name in STAGES:
        if name in scores:
            stages[name] = {
                **difference(reference, scores[name]),
                **accuracies(scores[name], samples),
                "step": difference(before, scores[name]),
            }
            before = scores[name]
    report: dict[str, Any] = {
        "windows": len(samples),
        "natural": int(samples.natural.sum()),
        "balanced": int(samples.balanced.sum()),
        "held_out": samples.truth is not None,
        "reference": accuracies(reference, samples),
        "stages": stages,
        "limits": settings.model_dump(include={"max_flips", "max_kl", "max_accuracy_loss", "max_tail_loss"}),
    }
    report["exceeded"] = exceeded(report["reference"], list(stages.values())[-1], settings)
    return report


def exceeded(reference: Mapping[str, float | None], last: Mapping[str, Any], settings: ParitySettings) -> list[str]:
    """What of the finished model is beyond the limits, in words; empty if nothing is."""
    found = []
    if last["flips"] > settings.max_flips:
        found.append(f"another first candidate in {last['flips']:.1%} of the windows (limit {settings.max_flips:.1%})")
    if last["mean_kl"] > settings.max_kl:
        found.append(f"KL {last['mean_kl']:.2g} (limit {settings.max_kl:.2g})")
    for key, name, limit in (
        ("accuracy", "accuracy", settings.max_accuracy_loss),
        ("tail", "the tail's mean recall", settings.max_tail_loss),
    ):
        loss = lost(reference, last, key)
        if loss is not None and loss > limit:
            found.append(f"{name} lower by {loss:.3f} (limit {limit:.3f})")
    return found


def lost(reference: Mapping[str, float | None], last: Mapping[str, Any], key: str) -> float | None:
    """How much of a share was lost; None where it was not measured."""
    before, after = reference[key], last[key]
    return None if before is None or after is None else float(before - after)


class ParityError(GateError):
    """The finished model differs too much from the trained one. `report` is the gate's table."""

    def __init__(self, quant: str, report: dict[str, Any]) -> None:
        super().__init__(
            f"{quant} changes the predictions: {'; '.join(report['exceeded'])}",
            "try --quant auto or a finer format, or accept it with --allow-loss",
        )
        self.report = report
