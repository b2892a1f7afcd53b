"""Quantize, compare, and take what passes: one format, or the smallest within the limits.

Knows the quantizer, the parity gate and the recovery; knows nothing of merging, pruning and writing bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.scoring import Floats
from edge_behavior.export.gguf.quantize import UNQUANTIZED, find_quant, quantize
from edge_behavior.export.parity.gate import (
    ParityError,
    Samples,
    accuracies,
    difference,
    lost,
    parity_report,
    score_bundle,
)
from edge_behavior.export.parity.recover import Trial, keep_sensitive, kinds, trial_rows
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.util.progress import progress_bar

AUTO = "auto"
# By falling compression. Where rows are not divisible by 256, q4 is the larger of the 4-bit formats by more.
AUTO_ORDER = ("q4_0", "q4", "q5", "q8", "f16")
# Formats whose tensors can be kept at more bits than they get.
_RECOVERABLE = ("q4_0", "q4", "q5")


@dataclass(frozen=True)
class Unquantized:
    """The converted model and what is known of it.

    Attributes:
        path: f16 or f32 GGUF.
        manifest: With the start and end ids of the file's vocabulary.
        samples: Windows of validation users, for the gate.
        scores: [n, B] by stage so far, the reference first.
        selection: Draws windows of training users, for choosing tensors.
        importance: [columns] per tensor; empty for none.
    """

    path: Path
    manifest: Manifest
    samples: Samples
    scores: Mapping[str, Floats]
    selection: Callable[[], Samples]
    importance: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantized:
    """A file that may be shipped.

    Attributes:
        path: The file.
        quant: Key of `QUANTS`.
        parity: The gate's table, see `parity.parity_report`.
        tried: Formats that were beyond the limits before, with what exceeded them.
        recovery: What was tried to help the tail; None if nothing was.
    """

    path: Path
    quant: str
    parity: dict[str, Any]
    tried: dict[str, list[str]]
    recovery: dict[str, Any] | None


def quantize_within(model: Unquantized, folder: Path, profile: ExportProfile) -> Quantized:
    """Quantize as the profile says.

    Args:
        folder: Takes the files. The unquantized one is left alone.

    Raises:
        ParityError: the profile enforces its limits and no format it allows stays within them.
        EdgebError: llama.cpp failed.
    """
    wanted = AUTO_ORDER if profile.quant == AUTO else (profile.quant,)
    tried: dict[str, list[str]] = {}
    for quant in wanted:
        path, report, recovery = _one(model, folder, quant, profile)
        if not report["exceeded"] or (profile.quant != AUTO and not profile.parity.enforce):
            return Quantized(path, quant, report, tried, recovery)
        tried[quant] = report["exceeded"]
        if path != model.path:
            path.unlink()
    raise ParityError(find_quant(wanted[-1]).name, report)


def _one(
    model: Unquantized, folder: Path, quant: str, profile: ExportProfile
) -> tuple[Path, dict[str, Any], dict[str, Any] | None]:
    if quant in UNQUANTIZED:
        scores = {**model.scores, "quantize": list(model.scores.values())[-1]}
        return model.path, parity_report(scores, model.samples, profile.parity), None
    path = folder / f"{quant}.gguf"
    quantize(model.path, path, quant, model.importance)
    scores = {**model.scores, "quantize": _scores(path, model, model.samples, f"Comparing {quant}")}
    report = parity_report(scores, model.samples, profile.parity)
    loss = lost(report["reference"], report["stages"]["quantize"], "tail")
    hurt = bool(report["exceeded"]) or (loss is not None and loss > profile.recover.tail_loss)
    if profile.recover.mode == "off" or quant not in _RECOVERABLE or not hurt:
        return path, report, None
    return _recovered(model, path, quant, profile, scores, report)


def _recovered(
    model: Unquantized,
    path: Path,
    quant: str,
    profile: ExportProfile,
    scores: Mapping[str, Floats],
    report: dict[str, Any],
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Choose tensors on training users, adopt them if the tail of validation users gains by it."""
    other, selection = path.with_name("trial.gguf"), model.selection()
    plain = _scores(model.path, model, selection, "Recovering")

    def trial(kept: tuple[str, ...]) -> Trial:
        quantize(model.path, other, quant, model.importance, kept=kept)
        found = _scores(other, model, selection, f"Keeping {_short(kept)}")
        return Trial(kept, difference(plain, found)["mean_kl"], other.stat().st_size)

    largest = int(path.stat().st_size * (1 + profile.recover.growth))
    best, trials = keep_sensitive(kinds(path), trial, largest)
    found: dict[str, Any] = {"trials": trial_rows(trials), "kept": [], "adopted": False, "before": None}
    if best.kept:
        quantize(model.path, other, quant, model.importance, kept=best.kept)
        again = {**scores, "quantize": _scores(other, model, model.samples, f"Comparing {quant}")}
        if tail_gain(scores["quantize"], again["quantize"], model.samples):
            found |= {"kept": list(best.kept), "adopted": True, "before": report["stages"]["quantize"]}
            other.replace(path)
            return path, parity_report(again, model.samples, profile.parity), found
    other.unlink(missing_ok=True)
    return path, report, found


def tail_gain(before: Floats, after: Floats, samples: Samples) -> bool:
    """Whether the tail is predicted better: by mean recall, where that is equal by the probability of the truth.

    Without held-out windows nothing is known to be better.
    """
    if samples.truth is None:
        return False
    tail = samples.balanced & (np.array(samples.groups)[samples.truth] == "tail")
    if not tail.any():
        return False

    def quality(scores: Floats) -> tuple[float, float]:
        recall = accuracies(scores, samples)["tail"]
        own = scores[np.flatnonzero(tail), samples.truth[tail]] if samples.truth is not None else scores
        return (0.0 if recall is None else recall), float(own.mean())

    return quality(after) > quality(before)


def _scores(path: Path, model: Unquantized, samples: Samples, what: str) -> Floats:
    with progress_bar(what[:22], len(samples)) as advance:
        return score_bundle(path, model.manifest, samples, advance)


def _short(kept: Sequence[str]) -> str:
    return "+".join(name.strip(".").removesuffix(".weight") for name in kept) or "nothing"
