"""metrics.json of a run: what its evaluation measured."""

from __future__ import annotations

from edge_behavior.evaluation.results import Results, RunMetrics
from edge_behavior.train.run.folder import RunFolder, read_json, write_json
from edge_behavior.train.stage_list import TUNED

FILE = "metrics.json"
# What the model is called of a run with one tuning stage.
ONE_TUNED = "tuned"


def read_metrics(run: RunFolder) -> RunMetrics:
    """The metrics of a run whose evaluation is done.

    Raises:
        EdgebError: there are none yet, or the file is damaged.
    """
    path = run.path / FILE
    return RunMetrics.from_dict(read_json(path), str(path))


def shown_systems(run: RunFolder, metrics: RunMetrics) -> Results:
    """All systems by name; where stage 2 was off, the two tuned models are one, `tuned`."""
    if run.recipe.b_tuning.method != "none":
        return metrics.systems
    found = {name: held for name, held in metrics.systems.items() if name not in TUNED[:-1]}
    return {ONE_TUNED if name == TUNED[-1] else name: held for name, held in found.items()}


def write_metrics(run: RunFolder, metrics: RunMetrics) -> None:
    """Write metrics.json, replacing an earlier one."""
    write_json(run.path / FILE, metrics.to_dict())
