"""The systems of a comparison under one interface: tuned language models, which are runs, and all others."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_behavior.baselines.rate_search import choose_rate, rates_around
from edge_behavior.baselines.system import SMALL_VALIDATION, Budget, Cost, FailedTrainingError, Fitted, System
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.errors import EdgebError
from edge_behavior.studies.compare.folder import Asked, CompareFolder
from edge_behavior.studies.compare.plan import SWEEPS, Point
from edge_behavior.studies.compare.windows import Drawn
from edge_behavior.studies.runs.planned import PlannedRun, changed
from edge_behavior.studies.runs.runner import Runner, do_run, train_until
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.rows.windows import WindowSet, draw_formats
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.stage_list import TUNED
from edge_behavior.train.stages.scoring import EVERYTHING, ScoringPass, score_windows
from edge_behavior.train.trainer.failures import DivergedError
from edge_behavior.train.trainer.processes import release_memory

_FIRST_STAGE, _LAST_STAGE = TUNED[0], TUNED[-1]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bench:
    """What every system is fitted with.

    Attributes:
        asked: What was asked for.
        dataset: The log.
        folder: The comparison's.
        drawn: Its windows.
        execute: By the stage to end with, what continues a run.
    """

    asked: Asked
    dataset: Dataset
    folder: CompareFolder
    drawn: Drawn
    execute: Mapping[str, Runner] = field(default_factory=lambda: {stage: train_until(stage) for stage in TUNED})

    def validation_loss(self, fitted: Fitted) -> float:
        """Mean negative log-likelihood of the validation windows, in nats."""
        table, targets = self.dataset.events("validation"), self.drawn.validation
        scores = log_softmax(fitted.log_probs(table, targets))
        return float(-scores[np.arange(len(targets)), table.behavior[targets]].mean())


class Contender(Protocol):
    """A system that takes part."""

    @property
    def name(self) -> str:
        """As `--systems` takes it."""

    @property
    def title(self) -> str:
        """As tables show it."""

    @property
    def needs(self) -> frozenset[str]:
        """What a log must have; see `baselines.system`."""

    def learns(self, base: Recipe) -> bool:
        """Whether a seed changes it."""

    def swept(self, base: Recipe) -> frozenset[str]:
        """The sweeps that change it."""

    def choose_rate(self, bench: Bench) -> tuple[float, Mapping[float, float]] | None:
        """The learning rate, and the validation loss of every candidate; None where nothing is searched."""

    def fit(self, bench: Bench, seed: int, point: Point | None, rate: float | None) -> Fitted:
        """Fit it, or continue an interrupted fit."""

    def clean(self, bench: Bench, seed: int, point: Point | None) -> None:
        """Delete what only an unfinished fit needs."""


@dataclass(frozen=True)
class Tuned:
    """A tuned language model: the base recipe with changes, trained as `edgeb train` does.

    Attributes:
        name: As `--systems` takes it.
        title: As tables show it.
        changes: Recipe fields (`section.field`) and their values.
    """

    name: str
    title: str
    changes: Mapping[str, Any]
    needs: frozenset[str] = frozenset()

    def learns(self, base: Recipe) -> bool:
        """All do but a pretrained backbone that is not tuned."""
        recipe = self.recipe(base, base.seed, None, None)
        return recipe.backbone.path is None or _tunes(recipe)

    def swept(self, base: Recipe) -> frozenset[str]:
        """Training size where it is tuned, F where it has a stage 2, size where the backbone is the recipe's."""
        recipe = self.recipe(base, base.seed, None, None)
        found = {"targets"} if recipe.a_tuning.method != "none" else set()
        found |= {"few_shot"} if recipe.b_tuning.method != "none" else set()
        return frozenset(found | ({"size"} if "backbone.path" not in self.changes else set()))

    def recipe(self, base: Recipe, seed: int, point: Point | None, rate: float | None) -> Recipe:
        """The recipe of one run. A rate is that of stage 1; stage 2's moves with it, in the recipe's proportion.

        Raises:
            EdgebError: the changes do not fit the base recipe.
        """
        changes = dict(self.changes)
        if rate is not None:
            own = self.recipe(base, seed, None, None)
            changes["a_tuning.learning_rate"] = rate
            if own.b_tuning.method != "none":
                ratio = own.b_tuning.learning_rate / own.a_tuning.learning_rate
                changes["b_tuning.learning_rate"] = float(f"{rate * ratio:.2g}")
        if point is not None:
            key = {"targets": "a_tuning.max_targets", "few_shot": "b_tuning.samples_per_behavior"}
            changes[key.get(point.sweep, "backbone.path")] = point.value if point.sweep == "size" else int(point.value)
        return changed(base, changes, seed, f"{base.name}-{self.name}", f"system {self.name}")

    def rate_runs(self, asked: Asked) -> list[tuple[float, PlannedRun]]:
        """The runs that try the candidate rates; only stage 1, with the first seed. None where nothing is tuned."""
        base, sizes = asked.recipe, asked.sizes
        recipe = self.recipe(base, base.seed, None, None)
        if not sizes.rate_targets or recipe.a_tuning.method == "none":
            return []
        rates = sizes.rates or rates_around(recipe.a_tuning.learning_rate)
        short = Tuned(
            self.name,
            self.title,
            {**self.changes, "a_tuning.max_targets": sizes.rate_targets, "b_tuning.method": "none"},
        )
        return [
            (rate, PlannedRun(f"rate-{self.name}-{rate:g}", base.seed, short.recipe(base, base.seed, None, rate)))
            for rate in rates
        ]

    def choose_rate(self, bench: Bench) -> tuple[float, Mapping[float, float]] | None:
        """Tries each candidate as a run of stage 1. Stage 2 follows in proportion: its steps count only if better."""
        runs = dict(self.rate_runs(bench.asked))
        if not runs:
            return None

        def fit(rate: float) -> Fitted:
            try:
                return self._fitted(bench, runs[rate], _FIRST_STAGE)
            except DivergedError as error:
                raise FailedTrainingError(error.message, error.hint) from None

        return choose_rate(runs, fit, bench.validation_loss)

    def planned(self, asked: Asked, seed: int, point: Point | None, rate: float | None) -> PlannedRun:
        """The run of one fit."""
        at = "" if point is None else f"-{point.sweep}-{hashlib.sha256(point.value.encode()).hexdigest()[:8]}"
        return PlannedRun(f"{self.name}{at}-seed{seed}", seed, self.recipe(asked.recipe, seed, point, rate))

    def fit(self, bench: Bench, seed: int, point: Point | None, rate: float | None) -> Fitted:
        """Train the run, up to its last tuning stage."""
        return self._fitted(bench, self.planned(bench.asked, seed, point, rate), _LAST_STAGE)

    def clean(self, bench: Bench, seed: int, point: Point | None) -> None:
        """Scores in progress; the run stays."""
        shutil.rmtree(_scores(bench.folder.run_path(self.planned(bench.asked, seed, point, None).name)), True)

    def _fitted(self, bench: Bench, planned: PlannedRun, stage: str) -> Fitted:
        if not bench.folder.finished(planned.name, stage):
            do_run(planned, bench.dataset, bench.folder, bench.execute[stage])
        return TunedModel(RunFolder.open(bench.folder.run_path(planned.name)), planned.recipe, stage)


class TunedModel:
    """A trained run as a fitted system; every candidate is scored at every window."""

    def __init__(self, run: RunFolder, recipe: Recipe, stage: str) -> None:
        self._run, self._recipe, self._stage = run, recipe, stage
        self._models, self._model = RunModels(run, recipe.backbone), None

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """[n, B] log-probabilities, normalized over the candidates; `known` as `Fitted` has it."""
        if self._model is None:
            self._model = self._models.load(self._stage)
        encoder = self._models.encoder
        formats = draw_formats(encoder, len(targets), self._recipe.seed)
        content = hashlib.sha256(targets.tobytes() + table.behavior.tobytes()).hexdigest()[:12]
        scoring = ScoringPass(
            f"score {self._run.path.name}",
            self._recipe.scoring.tokens_per_pass,
            EVERYTHING,
            # One window is asked to be timed: that must not read what was scored before.
            None if len(targets) == 1 else _scores(self._run.path) / f"{content}-{known}",
        )
        windows = WindowSet(table, targets, formats, shown=known)
        return log_softmax(score_windows(self._model, encoder, windows, scoring).log_probs)

    def cost(self) -> Cost:
        """See `CostedFit.cost`: the weights as they were loaded; tokens and seconds are those of the tuning stages."""
        assert self._model is not None, "it has not answered yet"
        stages = [done for stage in TUNED if (done := self._run.done(stage)) is not None and done["method"] != "none"]
        counted = [max((step.get("num_tokens") or 0 for step in done.get("log", ())), default=0) for done in stages]
        weights = list(self._model.parameters())
        return Cost(
            parameters=sum(held.numel() for held in weights),
            bytes=sum(held.numel() * held.element_size() for held in weights),
            tokens=int(sum(counted)) if all(counted) else None,
            seconds=float(sum(done["seconds"] for done in stages)),
        )

    def close(self) -> None:
        """Free the weights."""
        self._model = None
        release_memory()


@dataclass(frozen=True)
class Other:
    """A system of `baselines`.

    Attributes:
        system: The system.
        targets: Its training targets; None for a small system, which takes `small_targets` and `SMALL_VALIDATION`.
    """

    system: System
    targets: int | None = None

    @property
    def name(self) -> str:
        """As `--systems` takes it."""
        return self.system.name

    @property
    def title(self) -> str:
        """As tables show it."""
        return self.system.title

    @property
    def needs(self) -> frozenset[str]:
        """What a log must have."""
        return self.system.needs

    def learns(self, base: Recipe) -> bool:
        """Whether a seed changes it."""
        return self.system.learns

    def swept(self, base: Recipe) -> frozenset[str]:
        """Training size, where it learns."""
        return frozenset({"targets"} if self.system.learns else ())

    def choose_rate(self, bench: Bench) -> tuple[float, Mapping[float, float]] | None:
        """Fits each of its rates on the targets of the search, each in a folder of its own: a search can go on."""
        sizes = bench.asked.sizes
        if not sizes.rate_targets or not self.system.rates:
            return None
        budget = self._budget(bench, bench.asked.recipe.seed, sizes.rate_targets, "rates")

        def fit(rate: float) -> Fitted:
            own = replace(budget, folder=budget.folder / f"rate-{rate:g}")
            own.folder.mkdir(parents=True, exist_ok=True)
            return self.system.fit(bench.dataset, _length(bench), own, rate)

        return choose_rate(self.system.rates, fit, bench.validation_loss)

    def fit(self, bench: Bench, seed: int, point: Point | None, rate: float | None) -> Fitted:
        """Fit it on all training targets, on `small_targets`, or on those of the sweep's point."""
        targets = self._targets(bench, point)
        budget = self._budget(bench, seed, targets, f"seed{seed}-{targets}")
        return self.system.fit(bench.dataset, _length(bench), budget, rate)

    def clean(self, bench: Bench, seed: int, point: Point | None) -> None:
        """All work in progress."""
        shutil.rmtree(self._folder(bench, "rates"), ignore_errors=True)
        shutil.rmtree(self._folder(bench, f"seed{seed}-{self._targets(bench, point)}"), ignore_errors=True)

    def _targets(self, bench: Bench, point: Point | None) -> int:
        if point is not None:
            return int(point.value)
        return bench.asked.sizes.small_targets if self.targets is None else self.targets

    def _budget(self, bench: Bench, seed: int, targets: int, name: str) -> Budget:
        folder = self._folder(bench, name)
        folder.mkdir(parents=True, exist_ok=True)
        held_out = SMALL_VALIDATION if self.targets is None else bench.asked.recipe.evaluation.validation_targets
        return Budget(targets, held_out, seed, folder)

    def _folder(self, bench: Bench, name: str) -> Path:
        return bench.folder.work / "fits" / f"{self.name}-{name}"


def check_needs(contenders: Mapping[str, Contender], dataset: Dataset) -> None:
    """Refuse a system that needs what the log lacks.

    Raises:
        EdgebError: naming both.
    """
    has = {"time": True, "places": dataset.has_places}
    for name, contender in contenders.items():
        lacks = sorted(need for need in contender.needs if not has.get(need, False))
        if lacks:
            raise EdgebError(
                f"system '{name}' needs {lacks[0]}, and {dataset.path} has none", f"leave {name} out of --systems"
            )


def swept_systems(
    sweeps: Mapping[str, tuple[str, ...]], contenders: Mapping[str, Contender], base: Recipe
) -> dict[str, tuple[str, ...]]:
    """The systems that each sweep changes.

    Raises:
        EdgebError: a sweep that changes none.
    """
    found = {}
    for sweep in sweeps:
        found[sweep] = tuple(name for name, held in contenders.items() if sweep in held.swept(base))
        if not found[sweep]:
            raise EdgebError(
                f"--sweep {sweep} ({SWEEPS[sweep][1]}) changes none of the systems", "add one to --systems, as plain"
            )
    return found


def _tunes(recipe: Recipe) -> bool:
    return recipe.a_tuning.method != "none" or recipe.b_tuning.method != "none"


def _length(bench: Bench) -> int:
    return bench.asked.recipe.layout.history_length


def _scores(run: Path) -> Path:
    return run / "compare_scores"
