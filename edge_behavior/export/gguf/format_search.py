"""Quantize, compare, and keep what passes: one format, or the smallest within the limits.

Knows the quantizer, the parity gate and the recovery; knows nothing of merging, pruning and writing bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.scoring import Floats
from edge_behavior.export.gguf.quantize import UNQUANTIZED, find_quant, quantize, tensor_types
from edge_behavior.export.gguf.recover import keep_sensitive, kinds
from edge_behavior.export.parity.gate import (
    CERTAIN,
    Accuracies,
    Difference,
    ParityError,
    ParityReport,
    Recovery,
    RecoveryTrial,
    is_scored,
    loss_errors,
    parity_report,
    surely_exceeded,
)
from edge_behavior.export.parity.samples import Samples
from edge_behavior.export.parity.scores import REFERENCE, StageScores, score_bundle
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.util.timebox import clock_text

AUTO = "auto"
QUANTIZE = "quantize"
# By falling compression.
AUTO_ORDER = ("q4", "q5", "q8", "f16")
# Smaller by coarser rounding of the same tensors: worth a try only where the finer format is within the limits.
COARSER = {"q4": "q4_0"}
# Where most rows are not divisible by 256, llama.cpp has no K-quants for them: q4 then has 5 bits, and so has q5, whose
# kernels take twice as long as q8's (benchmarks/results/export-smollm2.md).
_AS_FINE = {"q4": "q5"}
# Formats with tensors of fewer than 8 bits.
_RECOVERABLE = ("q4_0", "q4", "q5")
# Tensors are chosen on other windows than those that the gate measures.
_SELECTION_SEED = 1
# Share of the time left that a recovery may take where the file could be shipped without.
_RECOVERY_SHARE = 0.3


@dataclass(frozen=True)
class Unquantized:
    """The converted model and what is known of it.

    Attributes:
        path: f16 or f32 GGUF.
        manifest: With the start and end ids of the file's vocabulary.
        scores: Of the stages so far.
        importance: [columns] per tensor; empty for none.
    """

    path: Path
    manifest: Manifest
    scores: StageScores
    importance: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def with_quantized(self, scores: Floats) -> dict[str, Floats]:
        """Scores by stage with those of a quantized file, or of the unquantized one, as the last."""
        return {**self.scores.by_stage, "quantize": scores}


@dataclass(frozen=True)
class Quantized:
    """A file that may be shipped.

    Attributes:
        path: The file.
        quant: Key of `QUANTS`.
        parity: What the gate measured, with the formats tried before and the recovery.
    """

    path: Path
    quant: str
    parity: ParityReport


def quantize_within(model: Unquantized, folder: Path, profile: ExportProfile) -> Quantized:
    """Quantize as the profile says.

    Args:
        model: What to quantize; its file is left alone.
        folder: Takes the files.
        profile: Format and limits.

    Raises:
        ParityError: the profile enforces its limits and no format it allows stays within them.
        EdgebError: llama.cpp failed.
    """
    searching = profile.quant == AUTO
    tried: dict[str, list[str]] = {}
    as_fine = ""
    for quant in AUTO_ORDER if searching else (profile.quant,):
        if quant == as_fine:
            continue
        found = _one(model, folder, quant, profile)
        as_fine = _AS_FINE.get(quant, "") if _falls_back(found.path) else ""
        if not found.parity.exceeded or not (searching or profile.parity.enforce):
            break
        tried[quant] = found.parity.exceeded
        _discard(found, model)
    else:
        raise ParityError(find_quant(found.quant).name, found.parity)
    if searching and quant in COARSER:
        smaller = _one(model, folder, COARSER[quant], profile)
        if smaller.parity.exceeded:
            tried[smaller.quant] = smaller.parity.exceeded
        else:
            found, smaller = smaller, found
        _discard(smaller, model)
    return replace(found, parity=replace(found.parity, tried=tried))


def _falls_back(path: Path) -> bool:
    types = tensor_types(path)
    return types.get("Q5_0", 0) > sum(count for name, count in types.items() if "_K" in name)


def _discard(found: Quantized, model: Unquantized) -> None:
    if found.path != model.path:
        found.path.unlink()


def _one(model: Unquantized, folder: Path, quant: str, profile: ExportProfile) -> Quantized:
    samples = model.scores.samples
    if quant in UNQUANTIZED:
        last = list(model.scores.by_stage.values())[-1]
        if not is_scored(last).all():
            last = _scores(model.path, model, samples, f"Comparing {quant}")
        report = parity_report(model.with_quantized(last), samples, profile.parity)
        return Quantized(model.path, quant, report)
    path, reference = folder / f"{quant}.gguf", model.scores.by_stage[REFERENCE]
    quantize(model.path, path, quant, model.importance)
    # `auto` ends with an unquantized format: others are given up as soon as they are certain to fail, and not mended.
    searching = profile.quant == AUTO
    hopeless = partial(surely_exceeded, reference, settings=profile.parity) if searching else None
    scores = _scores(path, model, samples, f"Comparing {quant}", QUANTIZE, hopeless)
    report = parity_report(model.with_quantized(scores), samples, profile.parity)
    if not (searching and report.exceeded):
        report = _mended(model, path, quant, profile, (scores, report))
    return Quantized(path, quant, report)


def _mended(
    model: Unquantized, path: Path, quant: str, profile: ExportProfile, measured: tuple[Floats, ParityReport]
) -> ParityReport:
    """Recover the file in `path` where it needs that and there is time."""
    scores, report = measured
    hurt = tail_hurt(model.scores.by_stage[REFERENCE], scores, model.scores.samples, profile.recover.tail_loss)
    if profile.recover.mode == "off" or quant not in _RECOVERABLE or not (hurt or report.exceeded):
        return report
    needed = _recovery_seconds(model, path)
    # A file beyond the limits is not shipped at all unless tensors can be kept.
    share = 1.0 if report.exceeded else _RECOVERY_SHARE
    if needed > share * model.scores.forecast.budget.left:
        why = f"about {clock_text(needed)} is too much of the time left: raise `minutes` in the profile"
        return replace(report, recovery=Recovery((), skipped=why))
    return _recovered(model, path, quant, profile, measured)


def _recovered(
    model: Unquantized, path: Path, quant: str, profile: ExportProfile, measured: tuple[Floats, ParityReport]
) -> ParityReport:
    """Choose tensors on training users; adopt them in `path` if the tail of validation users gains by it."""
    scores, report = measured
    other, selection = path.with_name("trial.gguf"), _selection(model.scores)
    plain = _scores(model.path, model, selection, "Recovering")

    def trial(kept: tuple[str, ...]) -> RecoveryTrial:
        quantize(model.path, other, quant, model.importance, kept=kept)
        found = _scores(other, model, selection, f"Keeping {_short(kept)}")
        return RecoveryTrial(kept, Difference.between(plain, found).mean_kl, other.stat().st_size)

    largest = int(path.stat().st_size * (1 + profile.recover.growth))
    best, trials = keep_sensitive(kinds(path), trial, largest)
    recovery, samples = Recovery(tuple(trials)), model.scores.samples
    if best.kept:
        quantize(model.path, other, quant, model.importance, kept=best.kept)
        again = _scores(other, model, samples, f"Comparing {quant}")
        if tail_gain(scores, again, samples):
            recovery = Recovery(tuple(trials), best.kept, before=report.last)
            report = parity_report(model.with_quantized(again), samples, profile.parity)
            other.replace(path)
    other.unlink(missing_ok=True)
    return replace(report, recovery=recovery)


def _recovery_seconds(model: Unquantized, path: Path) -> float:
    """About how long the trials take: one of each kind of tensors, two of several, and the files compared before."""
    selected = model.scores.sizes.between or len(model.scores.samples)
    return (len(kinds(path)) + 4) * model.scores.tokens(selected) * model.scores.forecast.per_unit(QUANTIZE)


def _selection(scores: StageScores) -> Samples:
    """Windows of training users, as many as steps before the last are compared on."""
    drawn = scores.draw(scores.sizes, "train", _SELECTION_SEED)
    return drawn if scores.sizes.between is None else drawn.take(np.arange(len(drawn)) < scores.sizes.between)


def tail_hurt(before: Floats, after: Floats, samples: Samples, limit: float) -> bool:
    """Whether the tail's mean recall falls by more than a limit, and by more than two standard errors of that loss.

    With one window per behavior, a single window that turns is more than a limit of half a point.
    """
    loss = Accuracies.of(before, samples).loss(Accuracies.of(after, samples), "tail")
    return loss is not None and loss > max(limit, CERTAIN * loss_errors(before, after, samples)["tail"])


def tail_gain(before: Floats, after: Floats, samples: Samples) -> bool:
    """Whether the tail is predicted better: by mean recall, and if that is equal by the probability of the truth.

    Nothing is known to be better on synthetic windows.
    """
    truth = samples.truth
    if truth is None:
        return False
    tail = samples.balanced & (np.array(samples.groups)[truth] == "tail")
    if not tail.any():
        return False
    at = np.flatnonzero(tail)

    def quality(scores: Floats) -> tuple[float, float]:
        return Accuracies.of(scores, samples).tail or 0.0, float(scores[at, truth[at]].mean())

    return quality(after) > quality(before)


def _scores(
    path: Path,
    model: Unquantized,
    samples: Samples,
    what: str,
    step: str = "",
    enough: Callable[[Floats], bool] | None = None,
) -> Floats:
    with model.scores.forecast.step(step, what[:22], len(samples)) as advance:
        return score_bundle(path, model.manifest, samples, advance, enough)


def _short(kept: tuple[str, ...]) -> str:
    return "+".join(name.strip(".").removesuffix(".weight") for name in kept) or "nothing"
