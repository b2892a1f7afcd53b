"""Which windows are measured, by the paper's two protocols, and whether a dataset fits the model to be measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import balanced_windows, natural_windows
from edge_behavior.errors import EdgebError, nearest

PROTOCOLS = ("natural", "balanced")
Targets = NDArray[np.int64]
# Scores [n, B] of a model at windows.
Score = Callable[[Targets], NDArray[np.float64]]


@dataclass(frozen=True)
class Protocol:
    """A named set of test windows, each given by the index of its target event."""

    name: str
    targets: Targets


@dataclass(frozen=True)
class WindowChoice:
    """How many windows each protocol takes; see `recipe.EvaluationConfig`."""

    per_user: int = 20
    per_behavior: int = 500
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class EvaluationWindows:
    """The windows of one evaluation, drawn once for all systems that are compared.

    Attributes:
        table: The events they are of.
        history_length: L; every window has that many earlier events.
        protocols: What is measured on which windows.
    """

    table: EventTable
    history_length: int
    protocols: tuple[Protocol, ...]

    @classmethod
    def draw(cls, which: str, table: EventTable, history_length: int, choice: WindowChoice) -> EvaluationWindows:
        """The windows of `natural`, `balanced` or `both`, see `protocols`.

        Raises:
            EdgebError: unknown protocol, or no event with a full history.
        """
        return cls(table, history_length, tuple(protocols(which, table, history_length, choice)))

    @cached_property
    def targets(self) -> Targets:
        """[n] every window once, ascending, also if it is in both protocols."""
        return np.unique(np.concatenate([protocol.targets for protocol in self.protocols]))

    def rows(self, protocol: Protocol) -> Targets:
        """Where the protocol's windows are in `targets`."""
        return np.searchsorted(self.targets, protocol.targets)

    def truth(self, protocol: Protocol) -> Targets:
        """Codes of the protocol's true behaviors."""
        return self.table.behavior[protocol.targets].astype(np.int64)


def protocols(which: str, table: EventTable, history_length: int, choice: WindowChoice) -> list[Protocol]:
    """The windows of `natural`, `balanced` or `both`.

    Natural: up to `per_user` windows of every user (0: all; see `natural_windows`). Balanced: up to `per_behavior` of
    every behavior, fewer of one that occurs less often.

    Raises:
        EdgebError: unknown protocol, or no event with a full history.
    """
    if which not in (*PROTOCOLS, "both"):
        raise EdgebError(f"unknown protocol '{which}'", nearest(which, (*PROTOCOLS, "both")))
    found = []
    if which in ("natural", "both"):
        per_user = choice.per_user or None
        targets = natural_windows(table, history_length, per_user, limit=choice.limit, seed=choice.seed)
        found.append(Protocol("natural", targets))
    if which in ("balanced", "both"):
        targets = balanced_windows(table, choice.per_behavior, history_length, seed=choice.seed)
        if choice.limit is not None and len(targets) > choice.limit:
            targets = np.sort(np.random.default_rng(choice.seed).choice(targets, choice.limit, replace=False))
        found.append(Protocol("balanced", targets))
    if any(len(p.targets) == 0 for p in found):
        raise EdgebError(
            f"no event in this part has {history_length} events before it", "import a longer log, or more users"
        )
    return found


def check_labels_match(ours: CandidateSet, theirs: CandidateSet, where: str) -> None:
    """Refuse to measure a model on a dataset with other labels, or with the same ones in another order.

    Raises:
        EdgebError: naming a label that only one of them has.
    """
    if ours.labels != theirs.labels:
        different = sorted(set(ours.labels) ^ set(theirs.labels))
        what = f"for example '{different[0]}'" if different else "in another order"
        raise EdgebError(f"{where} and the dataset have different candidate sets, {what}", "use the run's own dataset")


def check_dataset_fits(ours: CandidateSet, layout: PromptLayout, dataset: Dataset, where: str) -> None:
    """Refuse to measure a model on a dataset with other labels, or without the places the model was trained with.

    Raises:
        EdgebError: naming what differs.
    """
    check_labels_match(ours, dataset.candidates, where)
    if layout.places and not dataset.has_places:
        raise EdgebError(
            f"{where} was trained with places, and {dataset.path} has none",
            "use the run's own dataset, or import the log again without --no-place",
        )


def other_dataset_note(dataset: Path, model: Path) -> str:
    """A note for a model that is measured on, or exported with, another dataset than its own."""
    return f"{dataset} is not the dataset that {model} was trained on, which may have held some of these events"
