"""metrics.json of a run: what its evaluation measured."""

from __future__ import annotations

from edge_behavior.evaluation.results import RunMetrics
from edge_behavior.train.run.folder import RunFolder, read_json, write_json

FILE = "metrics.json"


def read_metrics(run: RunFolder) -> RunMetrics:
    """The metrics of a run whose evaluation is done.

    Raises:
        EdgebError: there are none yet, or the file is damaged.
    """
    path = run.path / FILE
    return RunMetrics.from_dict(read_json(path), str(path))


def write_metrics(run: RunFolder, metrics: RunMetrics) -> None:
    """Write metrics.json, replacing an earlier one."""
    write_json(run.path / FILE, metrics.to_dict())
