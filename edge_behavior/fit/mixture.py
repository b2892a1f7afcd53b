"""Fit on held-out windows how a bundle mixes its model with the user's habits, and which source it predicts with.

Validation windows are scored with the finished bundle itself, so that the fusion weights fit the model that ships;
`calibrate` uses the same scores. The users of these windows (in a split by time: the days) are new to the model.
Whether fusion wins is decided by cross-validation over them; the weights that ship are then fitted on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.bundle import bundle_bytes
from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fusion import SOURCES, Fusion, GroupWeights
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.resampling import resampling
from edge_behavior.data.windows import natural_stretches
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.bundles import stretch_log_probs
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.evaluation.protocols import Targets, check_labels_match
from edge_behavior.fit.strengths import fit_strengths
from edge_behavior.runtime.predictor import SMALL_BUNDLE, Predictor
from edge_behavior.runtime.side_by_side import engine_count, side_by_side
from edge_behavior.util.resampling import Resampled, Resampling
from edge_behavior.util.timebox import Forecast, TimeBudget

# L2 penalty towards the model alone, in nats of mean loss per squared unit of a weight.
L2 = 0.01
FOLDS = 5
PER_USER = 20
# Fewest and most windows to score; in between, as many as give `CANDIDATES_SCORED` scores of a small bundle.
# 300 windows lose .01 nats to 1,400 on Foursquare-NYC (benchmarks/results/habits.md).
WINDOWS = (300, 1500)
CANDIDATES_SCORED = 200_000
# Consecutive targets of a user that share a prompt: in equal time the fits lose no more than on single windows
# (benchmarks/results/held_out_stretches.md). Longer ones save little, since every window pays for the whole trie.
STRETCH = 4
# Fewest windows to fit anything on. They are scored even where other steps left no time, unless they alone would take
# longer than the whole budget.
LEAST_WINDOWS = 100
# The forecast's name of scoring them, and the share of the time left that the fits themselves need.
HELD_OUT = "held-out"
_FITTING_SHARE = 0.1
# Windows after which their time is believed.
_FIRST = 8

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class TooFewUsersError(EdgebError):
    """Too few validation users, groups or days to tell whether habits help."""


class TooLittleTimeError(EdgebError):
    """The time budget holds too few windows to fit anything."""


@dataclass(frozen=True)
class HeldOut:
    """Scores of both sources on held-out windows.

    Attributes:
        model: [n, B] log-probabilities as `Predictor.log_probs` gives them.
        habits: [n, B] log-probabilities.
        truth: [n] candidate codes.
        users: [n] user codes.
        groups: [B] head, medium or tail.
        config: How habits were counted.
        resampling: The units that cross-validation leaves out whole; None for users.
    """

    model: Floats
    habits: Floats
    truth: Ints
    users: Ints
    groups: tuple[str, ...]
    config: HabitsConfig = field(default_factory=HabitsConfig)
    resampling: Resampling | None = None

    @property
    def units(self) -> Resampling:
        """The units that cross-validation leaves out whole."""
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


@dataclass(frozen=True)
class SourceMetrics:
    """Accuracy of one source and its mean negative log-likelihood in nats."""

    accuracy: float
    nll: float


@dataclass(frozen=True)
class MixtureMetrics:
    """Every source on held-out windows, `fused` by weights fitted on the other folds.

    Attributes:
        windows: Number of windows.
        users: Users they are of.
        resampled: The units that were left out whole.
        folds: Number of folds.
        sources: Per source.
    """

    windows: int
    users: int
    resampled: Resampled
    folds: int
    sources: Mapping[str, SourceMetrics]

    @property
    def best(self) -> str:
        """The source with the highest accuracy; of equals the one with the lower loss."""
        return max(SOURCES, key=lambda name: (self.sources[name].accuracy, -self.sources[name].nll))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, as a manifest has them."""
        return {
            "split": "validation",
            "windows": self.windows,
            "users": self.users,
            "resampled": self.resampled.to_dict(),
            "folds": self.folds,
            **{name: asdict(found) for name, found in self.sources.items()},
        }


@dataclass(frozen=True)
class FittedHabits:
    """How a bundle counts habits and mixes them with its model.

    Attributes:
        config: How habits are counted.
        fusion: Weights per group.
        measured: Every source on held-out windows; the best is the bundle's default.
    """

    config: HabitsConfig
    fusion: Fusion
    measured: MixtureMetrics

    def to_dict(self) -> dict[str, Any]:
        """What a manifest's `habits` holds."""
        return {
            "config": self.config.to_dict(),
            "fusion": self.fusion.to_dict(),
            "default": self.measured.best,
            "measured": self.measured.to_dict(),
        }


def score_held_out(
    bundle: Path,
    data: Path,
    windows: int | None = None,
    config: HabitsConfig | None = None,
    seed: int = 0,
    limit: TimeLimit | None = None,
) -> HeldOut:
    """Scores of a bundle's model and of habits on validation windows of the dataset the model was trained on.

    Windows are stretches of consecutive targets, scored by a session as on the phone (`stretch_log_probs`).

    Args:
        bundle: A written bundle; its manifest's `habits` and `calibration` are not read.
        data: Dataset folder.
        windows: Validation windows to score; None for 300 to 1,500, fewer for many candidates or a large model.
        config: How to count; None for the defaults with strengths fitted on these windows.
        seed: For the choice of windows.
        limit: The time to keep; None for no limit.

    Raises:
        TooLittleTimeError: `LEAST_WINDOWS` take longer than the whole budget, and the limit does not insist.
        TooFewUsersError: fewer than two validation users (groups, blocks of days) have a full history.
        EdgebError: a dataset with another candidate set.
    """
    dataset = Dataset.open(data)
    table = dataset.events("validation")
    count = engine_count(bundle)
    with ExitStack() as stack:
        predictors = [
            stack.enter_context(
                Predictor.load(bundle, threads=None if count == 1 else 1, verify=False, prefix_cache=False)
            )
            for _ in range(count)
        ]
        predictor = predictors[0]
        candidates, layout = predictor.manifest.candidates, predictor.manifest.layout
        length = layout.history_length
        check_labels_match(candidates, dataset.candidates, str(bundle))
        if windows is None:
            windows = windows_wanted(len(candidates), bundle_bytes(bundle))
        stretches = natural_stretches(table, length, STRETCH, PER_USER, windows, seed)
        targets = np.concatenate([*stretches, np.empty(0, dtype=np.int64)])
        units = resampling(table, targets)
        if units.count < 2:
            by_time = units.split == "time"
            raise TooFewUsersError(
                f"{units.count} of {data}'s validation {units.summary().text} have more than {length} events"
                f"{' before them' if by_time else ''}",
                f"two or more are needed: import {'a longer log' if by_time else 'more users'}, or export with "
                "--no-habits --no-calibrate",
            )
        model = _scored(predictors, table, stretches, limit or TimeLimit(Forecast(TimeBudget(None), {})))
        targets = targets[: len(model)]
        population = predictor.population
    counts, places = candidates.counts, layout.places
    config = config or fit_strengths(table, targets, counts, places, population)
    habits = habit_log_probs(table, targets, counts, config, places, population)
    truth, users = table.behavior[targets].astype(np.int64), table.user_of(targets)
    return HeldOut(model, habits, truth, users, candidates.groups(), config, resampling(table, targets))


def windows_wanted(candidates: int, size: int) -> int:
    """Validation windows to score where there is time: fewer for many candidates or a large bundle (`size` bytes)."""
    return int(np.clip(CANDIDATES_SCORED // (candidates * (1 + size // SMALL_BUNDLE)), *WINDOWS))


@dataclass(frozen=True)
class TimeLimit:
    """The time that scoring held-out windows may take.

    Attributes:
        forecast: With the budget.
        insists: Score `LEAST_WINDOWS` however long that takes.
    """

    forecast: Forecast
    insists: bool = False

    def fits(self, done: int, more: int, spent: float) -> bool:
        """Whether `more` windows fit into the time left, at the rate of the `done` ones in `spent` seconds."""
        return more * spent / done <= (1 - _FITTING_SHARE) * self.forecast.budget.left


def _scored(
    predictors: Sequence[Predictor], table: EventTable, stretches: Sequence[Targets], limit: TimeLimit
) -> Floats:
    """[n, B] log-probabilities of the first stretches: all of them, or as many as there is time for."""
    total, done, begun = sum(map(len, stretches)), 0, 0
    least, started = min(LEAST_WINDOWS, total), limit.forecast.budget.elapsed

    def in_time() -> Iterator[Targets]:
        nonlocal begun
        for stretch in stretches:
            if done >= _FIRST:
                spent = limit.forecast.budget.elapsed - started
                if begun < least and not limit.insists and least * spent / done > limit.forecast.budget.seconds:
                    raise _too_little_time(limit, done, spent, least)
                if begun >= least and not limit.fits(done, begun - done + len(stretch), spent):
                    return
            begun += len(stretch)
            yield stretch

    rows: list[Floats] = []
    with limit.forecast.step(HELD_OUT, "Scoring held-out", total) as advance:
        for found in side_by_side(predictors, in_time(), lambda one, stretch: stretch_log_probs(one, table, stretch)):
            rows.append(found)
            done += len(found)
            advance(len(found))
    return np.concatenate(rows)


def _too_little_time(limit: TimeLimit, done: int, spent: float, least: int) -> TooLittleTimeError:
    each, minutes = spent / done, limit.forecast.budget.seconds / 60
    return TooLittleTimeError(
        f"a validation window takes {each:.2g} s, and the {least} that are needed more than the {minutes:g} minutes "
        "that the profile allows the export",
        "set `minutes` of the export profile higher, or export with --no-habits --no-calibrate",
    )


def fit_habits(held: HeldOut, seed: int = 0) -> FittedHabits:
    """Fit the fusion weights, and measure them by cross-validation.

    Args:
        held: Scores of held-out windows.
        seed: For the folds.
    """
    return FittedHabits(held.config, fit_weights(held), cross_validate(held, seed))


def unit_folds(units: Resampling, seed: int = 0) -> tuple[Ints, int]:
    """The fold [n] of every window, and the number of folds: five, or as many as units. No unit is in two folds."""
    codes, unit = np.unique(units.codes, return_inverse=True)
    folds = min(FOLDS, len(codes))
    return (np.random.default_rng(seed).permutation(len(codes)) % folds)[unit], folds


def fit_weights(held: HeldOut, l2: float = L2) -> Fusion:
    """The weights per group with the lowest mean loss, regularized towards the model alone.

    The problem is convex, so the start does not matter. A group without candidates keeps (1, 0, 0), as do all groups
    if there are no windows.
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


def left_out_scores(held: HeldOut, seed: int = 0) -> dict[str, Floats]:
    """Scores [n, B] of every source; `fused` by weights fitted on the other folds."""
    fold, folds = unit_folds(held.units, seed)
    fused = np.empty_like(held.model)
    for k in range(folds):
        fusion = fit_weights(held.take(fold != k))
        fused[fold == k] = fusion.scores(held.model[fold == k], held.habits[fold == k])
    return {"model": held.model, "habits": held.habits, "fused": fused}


def cross_validate(held: HeldOut, seed: int = 0) -> MixtureMetrics:
    """Accuracy and mean loss of every source; `fused` by weights fitted on the other folds."""
    scores = left_out_scores(held, seed)
    return MixtureMetrics(
        windows=len(held),
        users=len(np.unique(held.users)),
        resampled=held.units.summary(),
        folds=unit_folds(held.units, seed)[1],
        sources={name: _accuracy_and_loss(scores[name], held.truth) for name in SOURCES},
    )


def _accuracy_and_loss(scores: Floats, truth: Ints) -> SourceMetrics:
    own = log_softmax(scores)[np.arange(len(truth)), truth]
    return SourceMetrics(float((scores.argmax(1) == truth).mean()), float(-own.mean()))
