"""A small simulated dataset, and systems that know the truth more or less."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from edge_behavior.baselines.system import Budget, Fitted, Floats, Ints
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.studies.compare.contenders import Bench, Contender, Other, swept_systems
from edge_behavior.studies.compare.folder import Asked, CompareFolder, Sizes
from edge_behavior.studies.compare.plan import parse_sweeps
from edge_behavior.studies.compare.runner import drawn_windows
from edge_behavior.train.recipe import Recipe
from tests.unit.studies.ablation.conftest import data, recipe

__all__ = ["data", "recipe"]
SIZES = Sizes(windows=40, validation=30, rate_targets=50)
Asking = Callable[..., tuple[Bench, dict[str, Contender]]]


@dataclass
class Noisy:
    """Puts `strength` on the truth amid noise of its seed, less where fewer events are known; notes its calls."""

    name: str
    strength: float
    rates: tuple[float, ...] = ()
    needs: frozenset[str] = frozenset()
    learns: bool = True
    calls: list[tuple[int, int | None]] = field(default_factory=list)
    held_out: list[int] = field(default_factory=list)
    stop_after: int | None = None

    @property
    def title(self) -> str:
        return f"the {self.name} system"

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        self.held_out.append(budget.validation_targets)
        budget.folder.mkdir(parents=True, exist_ok=True)
        return _NoisyFitted(self, budget, rate or 1.0)


@dataclass
class _NoisyFitted:
    system: Noisy
    budget: Budget
    rate: float

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        if self.system.stop_after is not None and len(self.system.calls) >= self.system.stop_after:
            raise KeyboardInterrupt
        self.system.calls.append((self.budget.seed, known))
        rng = np.random.default_rng(
            [self.budget.seed, self.budget.targets, len(targets), 0 if known is None else known]
        )
        scores = rng.normal(size=(len(targets), len(table.candidates)))
        strength = self.system.strength * self.rate * (1 if known is None else known / (known + 5))
        scores[np.arange(len(targets)), table.behavior[targets]] += strength
        return log_softmax(scores)

    def close(self) -> None:
        pass


@dataclass
class Habits:
    name: str = "habits"
    title: str = "habits"
    rates: tuple[float, ...] = ()
    needs: frozenset[str] = frozenset()
    learns: bool = False

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        return self  # type: ignore[return-value]

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        return habit_log_probs(table, targets, table.candidates.counts)

    def close(self) -> None:
        pass


def contenders(*systems: Noisy) -> dict[str, Contender]:
    return {system.name: Other(system) for system in (Habits(), *systems)}


@pytest.fixture
def asking(data: Path, recipe: Recipe, tmp_path: Path) -> Asking:
    """Starts or continues a comparison in a folder."""

    def ask(
        systems: dict[str, Contender],
        out: str = "out",
        seeds: tuple[int, ...] = (0, 1),
        sizes: Sizes = SIZES,
        sweeps: tuple[str, ...] = (),
        cold: tuple[int, ...] = (0, 2),
        endpoint: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[Bench, dict[str, Contender]]:
        dataset, folder = Dataset.open(data), CompareFolder(tmp_path / out)
        wanted = parse_sweeps(sweeps)
        asked = Asked(
            recipe,
            dataset.fingerprint,
            dataset.info.source.name,
            tuple(systems),
            {name: held.title for name, held in systems.items()},
            tuple(name for name, held in systems.items() if held.learns(recipe)),
            seeds,
            cold,
            sizes,
            wanted,
            swept_systems(wanted, systems, recipe),
            endpoint,
        )
        asked = folder.ask(asked, data)
        return Bench(asked, dataset, folder, drawn_windows(asked, dataset)), systems

    return ask
