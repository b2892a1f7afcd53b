"""Fit on held-out windows how a bundle mixes its model with the user's habits, and decide which source it starts with.

Scores validation windows with the finished bundle itself, so that the weights fit the weights that are shipped; the
same scores serve `calibrate`. The users of these windows, or in a split by time the days, are new to the model; whether
fusion wins is measured by cross-validation over them, the weights that go into the bundle are then fitted on all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.bundle import bundle_bytes
from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fusion import SOURCES, Fusion, GroupWeights
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.resampling import resampling
from edge_behavior.data.windows import natural_windows
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.bundles import bundle_log_probs
from edge_behavior.evaluation.protocols import check_labels_match, habit_log_probs
from edge_behavior.runtime.predictor import SMALL_BUNDLE, Predictor
from edge_behavior.util.resampling import Resampling, units_text

# Strength of the pull towards the model alone, per squared unit of a weight, in nats of mean loss.
L2 = 0.01
FOLDS = 5
PER_USER = 20
# Windows scored: at most and at least; in between so many candidates, fewer by every `SMALL_BUNDLE` bytes.
# 300 lose .01 nats to 1,400 on Foursquare-NYC (benchmarks/results/habits.md).
WINDOWS = (300, 1500)
CANDIDATES_SCORED = 200_000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class TooFewUsersError(EdgebError):
    """There are not enough validation users, groups or days to tell whether habits help."""


@dataclass(frozen=True)
class HeldOut:
    """Scores of both sources on held-out windows.

    Attributes:
        model: [n, B] log-probabilities as `Predictor.log_probs` gives them.
        habits: [n, B] log-probabilities.
        truth: [n] candidate codes.
        users: [n] user codes.
        groups: [B] head, medium or tail.
        resampling: What is left out together in cross-validation; None for users.
    """

    model: Floats
    habits: Floats
    truth: Ints
    users: Ints
    groups: tuple[str, ...]
    resampling: Resampling | None = None

    @property
    def units(self) -> Resampling:
        """What is left out together in cross-validation."""
        return Resampling(self.users) if self.resampling is None else self.resampling

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, rows: NDArray[np.bool_]) -> HeldOut:
        """Some of the windows."""
        return replace(
            self,
            model=self.model[rows],
            habits=self.habits[rows],
            truth=self.truth[rows],
            users=self.users[rows],
            resampling=None if self.resampling is None else self.resampling.take(rows),
        )


def score_held_out(
    bundle: Path,
    data: Path,
    windows: int | None = None,
    config: HabitsConfig | None = None,
    seed: int = 0,
) -> HeldOut:
    """Scores of a bundle's model and of habits on validation windows of the dataset the model was trained on.

    Args:
        bundle: A written bundle; its manifest's `habits` and `calibration` are not read.
        data: Dataset folder.
        windows: Validation windows to score; None for 300 to 1,500, fewer for many candidates or a large model.
        config: How to count; None for the defaults.
        seed: Of the choice of windows.

    Raises:
        TooFewUsersError: fewer than two validation users (groups, blocks of days) have a full history.
        EdgebError: a dataset with another candidate set.
    """
    dataset = Dataset.open(data)
    table = dataset.events("validation")
    with Predictor.load(bundle, verify=False, prefix_cache=False) as predictor:
        candidates, layout = predictor.manifest.candidates, predictor.manifest.layout
        length = layout.history_length
        check_labels_match(candidates, dataset.candidates, str(bundle))
        if windows is None:
            cost = len(candidates) * (1 + bundle_bytes(bundle) // SMALL_BUNDLE)
            windows = int(np.clip(CANDIDATES_SCORED // cost, *WINDOWS))
        targets = natural_windows(table, length, PER_USER, windows, seed)
        units = resampling(table, targets)
        if units.count < 2:
            by_time = units.split == "time"
            raise TooFewUsersError(
                f"{units.count} of {data}'s validation {units_text(units.facts())} have more than {length} events"
                f"{' before them' if by_time else ''}",
                f"two or more are needed: import {'a longer log' if by_time else 'more users'}, or export with "
                "--no-habits --no-calibrate",
            )
        model = bundle_log_probs(predictor, table, targets)
    habits = habit_log_probs(table, targets, candidates.counts, config, layout.places)
    truth, users = table.behavior[targets].astype(np.int64), table.user_of(targets)
    return HeldOut(model, habits, truth, users, candidates.groups(), units)


def fit_habits(held: HeldOut, config: HabitsConfig | None = None, seed: int = 0) -> dict[str, Any]:
    """What a manifest's `habits` holds.

    Args:
        held: Scores of held-out windows.
        config: How habits were counted; None for the defaults.
        seed: Of the folds.

    Returns:
        `config`, `fusion` (weights per group), `default` (the source with the highest accuracy on units that the
        weights were not fitted on; of equals the one with the lower loss) and `measured`.
    """
    measured = cross_validate(held, seed)
    return {
        "config": (config or HabitsConfig()).to_dict(),
        "fusion": fit_weights(held).to_dict(),
        "default": best_source(measured),
        "measured": measured,
    }


def unit_folds(units: Resampling, seed: int = 0) -> tuple[Ints, int]:
    """The fold [n] of every window, whole units each, and how many folds there are: five, or as many as units."""
    codes, unit = np.unique(units.codes, return_inverse=True)
    folds = min(FOLDS, len(codes))
    return (np.random.default_rng(seed).permutation(len(codes)) % folds)[unit], folds


def fit_weights(held: HeldOut, l2: float = L2) -> Fusion:
    """The weights per group with the lowest mean loss, pulled towards the model alone.

    Convex, so that the start does not matter. A group without candidates keeps (1, 0, 0), as does everything where
    there are no windows.
    """
    from scipy.optimize import minimize

    member = np.array([[group == name for name in GROUPS] for group in held.groups], dtype=np.float64)
    rows = np.arange(len(held))
    start = np.repeat([1.0, 0.0, 0.0], len(GROUPS))

    def loss(weights: Floats) -> tuple[float, Floats]:
        model, habits, bias = weights.reshape(3, -1) @ member.T
        log_p = log_softmax(model * held.model + habits * held.habits + bias)
        # Expected minus observed features, summed over the windows of every candidate, then per group.
        excess = np.exp(log_p)
        excess[rows, held.truth] -= 1.0
        slopes = [(excess * held.model).sum(0), (excess * held.habits).sum(0), excess.sum(0)]
        away = weights - start
        value = -log_p[rows, held.truth].mean() + l2 * (away @ away)
        return float(value), np.concatenate([slope @ member for slope in slopes]) / len(held) + 2 * l2 * away

    found = start
    if len(held):
        bounds = [(0.0, None)] * (2 * len(GROUPS)) + [(None, None)] * len(GROUPS)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    table = found.reshape(3, -1).T
    weights = {name: GroupWeights(*(float(x) for x in row)) for name, row in zip(GROUPS, table, strict=True)}
    return Fusion(weights, held.groups)


def cross_validate(held: HeldOut, seed: int = 0) -> dict[str, Any]:
    """Accuracy and mean loss of every source; `fused` by weights fitted on the other units.

    Returns:
        `split`, `windows`, `users`, `resampled` (the units), `folds`, and per source `accuracy` and `nll` in nats.
    """
    fold, folds = unit_folds(held.units, seed)
    fused = np.empty_like(held.model)
    for k in range(folds):
        fusion = fit_weights(held.take(fold != k))
        fused[fold == k] = fusion.scores(held.model[fold == k], held.habits[fold == k])
    scores = {"model": held.model, "habits": held.habits, "fused": fused}
    return {
        "split": "validation",
        "windows": len(held),
        "users": len(np.unique(held.users)),
        "resampled": held.units.facts(),
        "folds": folds,
        **{name: _accuracy_and_loss(scores[name], held.truth) for name in SOURCES},
    }


def best_source(measured: dict[str, Any]) -> str:
    """The source with the highest accuracy; of equals the one with the lower loss."""
    return max(SOURCES, key=lambda name: (measured[name]["accuracy"], -measured[name]["nll"]))


def _accuracy_and_loss(scores: Floats, truth: Ints) -> dict[str, float]:
    own = log_softmax(scores)[np.arange(len(truth)), truth]
    return {"accuracy": float((scores.argmax(1) == truth).mean()), "nll": float(-own.mean())}
