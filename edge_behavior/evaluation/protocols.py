"""Both protocols of the paper over one event table: any scorer and the simple counters, in the same terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.candidates import ANCHOR_THRESHOLD, CandidateSet
from edge_behavior.core.habits import HabitCounter, HabitsConfig
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.resampling import resampling
from edge_behavior.data.windows import balanced_windows, natural_windows
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.evaluation.counters import COUNTERS, Counters, transition_counts
from edge_behavior.evaluation.metrics import Outcome, behavior_metrics

PROTOCOLS = ("natural", "balanced")
Targets = NDArray[np.int64]
Score = Callable[[Targets], NDArray[np.float64]]


@dataclass(frozen=True)
class Protocol:
    """A named set of test windows."""

    name: str
    targets: Targets


@dataclass(frozen=True)
class WindowChoice:
    """How many windows each protocol takes; see `recipes.EvaluationConfig`."""

    per_user: int = 20
    per_behavior: int = 500
    limit: int | None = None
    seed: int = 0


def protocols(which: str, table: EventTable, history_length: int, choice: WindowChoice) -> list[Protocol]:
    """The windows of `natural`, `balanced` or `both`.

    Natural: up to `per_user` windows of every user (0: all; see `natural_windows`). Balanced: up to `per_behavior` of
    every behavior; one that occurs less often gives what it has.

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


def evaluate_counters(
    dataset: Dataset,
    table: EventTable,
    protocol: Protocol,
    history_length: int,
    anchor_threshold: float = ANCHOR_THRESHOLD,
) -> dict[str, dict[str, Any]]:
    """Metrics of every simple counter, by name."""
    counters = fit_counters(dataset, history_length)
    return {
        name: _metrics(counters.scores(name, table, protocol.targets), table, protocol.targets, anchor_threshold, False)
        for name in COUNTERS
    }


def habit_log_probs(
    table: EventTable,
    targets: Targets,
    prior: ArrayLike,
    config: HabitsConfig | None = None,
    places: bool = True,
) -> NDArray[np.float64]:
    """[n, B] log-probabilities of each user's habits at windows, after all of the user's events before the target.

    Args:
        table: Users from their first event on; each is replayed once.
        targets: Any order.
        prior: [B], as `HabitCounter` takes it.
        config: How to count.
        places: Whether the bundle knows places, as `HabitCounter` takes it.
    """
    found = np.empty((len(targets), len(table.candidates)))
    users = table.user_of(targets)
    for user in np.unique(users):
        counter = HabitCounter(prior, config, places)
        done = int(table.user_offsets[user])
        mine = np.flatnonzero(users == user)
        for row in mine[np.argsort(targets[mine], kind="stable")]:
            target = int(targets[row])
            for index in range(done, target):
                counter.observe(int(table.behavior[index]), table.time[index].item(), table.places[table.place[index]])
            done = target
            found[row] = counter.log_probs(table.time[target].item(), table.places[table.place[target]])
    return found


def accuracy_by_history(
    table: EventTable, targets: Targets, scores: Mapping[str, NDArray[np.float64]], history_length: int
) -> list[dict[str, Any]]:
    """Accuracy of several scorers by how many events of the user came before the target.

    Args:
        scores: [n, B] per scorer, at `targets`.
        history_length: L; the bins are L to 2L, to 4L, to 8L, and above.

    Returns:
        Per bin that holds a window: `from`, `to` (None for no end), `windows`, `users` and `accuracy` per scorer.
    """
    users = table.user_of(targets)
    events = targets - table.user_offsets[users]
    edges = [history_length * factor for factor in (1, 2, 4, 8)]
    bins: list[dict[str, Any]] = []
    for start, stop in zip(edges, [*edges[1:], None], strict=True):
        inside = (events >= start) & (events < (np.inf if stop is None else stop))
        if inside.any():
            truth = table.behavior[targets[inside]]
            accuracy = {name: float((s[inside].argmax(1) == truth).mean()) for name, s in scores.items()}
            held = {"windows": int(inside.sum()), "users": len(np.unique(users[inside]))}
            bins.append({"from": start, "to": stop, **held, "accuracy": accuracy})
    return bins


def fit_counters(dataset: Dataset, history_length: int) -> Counters:
    """Counters with the training users' frequencies and transitions."""
    train, size = dataset.events("train"), len(dataset.candidates)
    counts = np.asarray(dataset.candidates.counts, dtype=np.float64)
    return Counters(counts, transition_counts(train, train.user_offsets, size), history_length)


def evaluate_all(
    dataset: Dataset,
    table: EventTable,
    which: str,
    history_length: int,
    choice: WindowChoice,
    scorers: Mapping[str, Score],
    anchor_threshold: float = ANCHOR_THRESHOLD,
) -> dict[str, Any]:
    """Metrics of the scorer named `model` per protocol; all other scorers and the counters under `baselines`.

    A window that is in both protocols is scored once.
    """
    chosen = protocols(which, table, history_length, choice)
    union = np.unique(np.concatenate([p.targets for p in chosen]))
    found: dict[str, dict[str, Any]] = {}
    for name, score in scorers.items():
        scores = score(union)
        for p in chosen:
            rows = scores[np.searchsorted(union, p.targets)]
            found.setdefault(name, {})[p.name] = _metrics(rows, table, p.targets, anchor_threshold, True)
    for p in chosen:
        counted = evaluate_counters(dataset, table, p, history_length, anchor_threshold)
        for name, metrics in counted.items():
            found.setdefault(name, {})[p.name] = metrics
    return {**found.pop("model", {}), "baselines": found}


def check_labels_match(ours: CandidateSet, theirs: CandidateSet, where: str) -> None:
    """Refuse to measure a model on a dataset with other labels, or the same in another order."""
    if ours.labels != theirs.labels:
        different = sorted(set(ours.labels) ^ set(theirs.labels))
        what = f"for example '{different[0]}'" if different else "in another order"
        raise EdgebError(f"{where} and the dataset have different candidate sets, {what}", "use the run's own dataset")


def check_dataset_fits(ours: CandidateSet, layout: PromptLayout, dataset: Dataset, where: str) -> None:
    """Refuse to measure a model on a dataset with other labels, or on one without the places that it was trained with.

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
    """What to say where a model meets another dataset than its own."""
    return f"{dataset} is not the dataset that {model} was trained on, which may have held some of these events"


def _metrics(
    scores: NDArray[np.float64], table: EventTable, targets: Targets, anchor_threshold: float, is_log_prob: bool
) -> dict[str, Any]:
    candidates: CandidateSet = table.candidates
    outcome = Outcome(
        scores=scores,
        truth=table.behavior[targets].astype(np.int64),
        users=table.user_of(targets),
        is_log_prob=is_log_prob,
        resampling=resampling(table, targets),
    )
    return behavior_metrics(outcome, candidates.labels, candidates.groups(anchor=anchor_threshold))
