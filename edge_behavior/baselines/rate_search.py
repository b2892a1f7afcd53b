"""A learning rate for a system, chosen on validation users by a stated budget."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edge_behavior.baselines.system import Budget, FailedTrainingError, System
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.windows import natural_windows
from edge_behavior.errors import EdgebError

_PER_USER = 20


def choose_rate(
    system: System, dataset: Dataset, history_length: int, budget: Budget
) -> tuple[float | None, dict[float, float]]:
    """The rate with the lowest NLL on validation windows, each fitted on `budget.targets` training targets.

    Every rate keeps its work in a folder of its own in `budget.folder`, so that a search that was interrupted goes on.
    A rate at which training fails (a loss that diverges) counts as infinitely bad.

    Returns:
        The rate, of equals the smaller, and the mean NLL per rate in nats; None and {} where nothing is searched.

    Raises:
        EdgebError: no validation window, or no rate trains.
    """
    if not system.rates:
        return None, {}
    table = dataset.events("validation")
    limit = budget.validation_targets or None
    targets = natural_windows(table, history_length, _PER_USER, limit=limit, seed=budget.seed)
    if not len(targets):
        raise EdgebError(
            f"no validation user of {dataset.path} has more than {history_length} events to choose a rate on",
            "import a longer log, or more users",
        )
    truth, found = table.behavior[targets].astype(np.int64), {}
    failure: EdgebError | None = None
    for rate in sorted(system.rates):
        own = replace(budget, folder=budget.folder / f"rate-{rate:g}")
        own.folder.mkdir(parents=True, exist_ok=True)
        try:
            fitted = system.fit(dataset, history_length, own, rate)
        except FailedTrainingError as error:
            failure, found[rate] = error, math.inf
            continue
        try:
            found[rate] = float(-fitted.log_probs(table, targets)[np.arange(len(targets)), truth].mean())
        finally:
            fitted.close()
    best = min(found, key=lambda rate: (found[rate], rate))
    if failure is not None and not math.isfinite(found[best]):
        raise failure
    return best, found
