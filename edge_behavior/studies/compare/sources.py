"""Every row of a comparison as scores: systems as they predict, and what is derived of them without training.

`X+prior`          scores minus τ·log(training share); the τ of the best mean recall per behavior on validation windows
`X+habits`         log-linear mixture with the user's habits, weights fitted on validation windows (`fit.mixture`)
`X+habits+prior`   the mixture, with a τ of its own
`X+habits:shuffled`  the control: the same fit with X's scores shuffled between windows

What X adds is the mixture minus the control, not minus habits: weights and biases per group lift habits by themselves.
Validation windows alone decide weights and τ, so that no test window has been seen by what it measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.scoring import log_softmax
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.metrics import mean_recall
from edge_behavior.fit.balance import GRID
from edge_behavior.fit.mixture import HeldOut, fit_weights
from edge_behavior.studies.compare.folder import Asked, CompareFolder
from edge_behavior.studies.compare.plan import FIRST_SETS, Entry
from edge_behavior.studies.compare.predictions import read_scores
from edge_behavior.studies.compare.windows import Windows

HABITS = "habits"
PRIOR, MIXED, SHUFFLED = "+prior", "+habits", "+habits:shuffled"
_VALIDATION = "validation"

Floats = NDArray[np.float64]
# Scores [n, B] by set of windows.
Scores = Mapping[str, Floats]


@dataclass(frozen=True)
class Source:
    """One row of the tables.

    Attributes:
        name: As in results.json.
        title: As tables show it.
        system: The system it is of.
        derived: "" for the system itself, else what was done to it.
        seeds: Those that are finished.
        scores: Per seed.
        tau: Per seed, the factor of the log share that was subtracted; empty where none was.
    """

    name: str
    title: str
    system: str
    derived: str
    seeds: tuple[int, ...]
    scores: tuple[Scores, ...]
    tau: tuple[float, ...] = ()

    def has(self, window_set: str) -> bool:
        """Whether every seed has scores of a set."""
        return all(window_set in held for held in self.scores)


def read_source(entry: Entry, title: str, windows: Windows, folder: CompareFolder) -> Source | None:
    """An entry's scores of the seeds that have test and validation windows scored; None without any.

    A cold start that was asked for later counts as soon as all of them have it, see `Source.has`.

    Raises:
        EdgebError: a file is damaged or of other windows.
    """
    seeds, scores = [], []
    for seed in entry.seeds:
        files = {held: folder.predictions(entry.name, seed, held) for held in entry.sets}
        there = {held: file for held, file in files.items() if file.is_file()}
        if there.keys() >= set(FIRST_SETS):
            seeds.append(seed)
            size = len(windows.groups)
            scores.append({held: read_scores(file, windows.size(held), size) for held, file in there.items()})
    return Source(entry.name, title, entry.system, "", tuple(seeds), tuple(scores)) if seeds else None


def derived(source: Source, habits: Source | None, windows: Windows) -> list[Source]:
    """What is made of a system's scores; nothing of the simple counters, and no mixture of habits with habits."""
    if source.system in COUNTERS:
        return []
    found = [with_prior(source, windows)]
    if habits is None or source.system.startswith(HABITS):
        return found
    mixed = with_habits(source, habits, windows)
    return [*found, mixed, with_prior(mixed, windows), with_habits(source, habits, windows, shuffle=True)]


def with_prior(source: Source, windows: Windows) -> Source:
    """Scores minus τ·log share, for the τ that is best in mean recall per behavior on validation windows."""
    taus = tuple(best_tau(held[_VALIDATION], windows) for held in source.scores)
    return Source(
        source.name + PRIOR,
        f"{source.title}, prior adjusted",
        source.system,
        source.derived + PRIOR,
        source.seeds,
        tuple(
            {name: log_softmax(held - tau * windows.log_share) for name, held in scores.items()}
            for scores, tau in zip(source.scores, taus, strict=True)
        ),
        taus,
    )


def best_tau(scores: Floats, windows: Windows) -> float:
    """The τ of the balance's grid with the highest mean recall on validation windows; the smallest of equals."""
    truth = windows.validation.truth

    def recall(tau: float) -> float:
        return mean_recall((scores - tau * windows.log_share).argmax(1) == truth, truth)

    return max(GRID, key=lambda tau: (round(recall(tau), 12), -tau))


def with_habits(source: Source, habits: Source, windows: Windows, shuffle: bool = False) -> Source:
    """The mixture of a system with the user's habits; with `shuffle` the noise control."""
    scores = [_mixed(held, habits.scores[0], windows, shuffle) for held in source.scores]
    name = SHUFFLED if shuffle else MIXED
    title = f"{source.title} (shuffled) + habits" if shuffle else f"{source.title} + habits"
    return Source(source.name + name, title, source.system, source.derived + name, source.seeds, tuple(scores))


def _mixed(own: Scores, habits: Scores, windows: Windows, shuffle: bool) -> Scores:
    order = {name: np.random.default_rng(0).permutation(len(held)) for name, held in own.items()} if shuffle else {}
    taken = {name: held[order[name]] if shuffle else held for name, held in own.items()}
    part = windows.validation
    units = windows.resampling(part)
    held_out = HeldOut(
        taken[_VALIDATION], habits[_VALIDATION], part.truth, units.codes, windows.groups, resampling=units
    )
    fusion = fit_weights(held_out)
    return {name: log_softmax(fusion.scores(held, habits[name])) for name, held in taken.items() if name in habits}


def read_sources(asked: Asked, entries: Sequence[Entry], windows: Windows, folder: CompareFolder) -> list[Source]:
    """All rows that can be made of the finished predictions, each system before what is derived of it."""
    found = []
    for entry in entries:
        title = asked.titles[entry.system] + ("" if entry.point is None else f", {entry.point.shown}")
        source = read_source(entry, title, windows, folder)
        if source is not None:
            found.append((entry, source))
    habits = next((source for entry, source in found if entry.name == HABITS), None)
    rows = []
    for entry, source in found:
        rows.append(source)
        if entry.point is None:
            rows += derived(source, habits, windows)
    return rows
