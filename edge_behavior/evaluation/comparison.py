"""Several models in one table: their evaluations on the same windows, joined under names of their own.

Takes evaluations and makes none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_behavior.core.fields import read_fields
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.metrics import Metrics
from edge_behavior.evaluation.results import EvaluatedDataset, Evaluation, Results, read_results, results_dict

UNTUNED = "untuned"


@dataclass(frozen=True)
class Comparison:
    """Models beside each other and the simple counters.

    Attributes:
        results: Metrics of every system on the same windows: counters by name, `untuned` where it is the same for all
            runs, and `MODEL/SYSTEM` for what a model has of its own.
        dataset: What they were measured on.
    """

    results: Results
    dataset: EvaluatedDataset

    def to_dict(self) -> dict[str, Any]:
        """`edgeb evaluate --json` of several models."""
        return {"systems": results_dict(self.results), "dataset": asdict(self.dataset)}

    @classmethod
    def from_dict(cls, values: object, where: str = "comparison") -> Comparison:
        """Read strictly what `to_dict` gave.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, ("systems", "dataset"), where)
        dataset = read_fields(found["dataset"], ("path", "fingerprint", "own"), f"{where}: dataset")
        return cls(read_results(found["systems"], f"{where}: systems"), EvaluatedDataset(**dataset))


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A short name of every model: the file's or folder's own where no other has it, else the path as given."""
    names = [path.resolve().name for path in paths]
    held = Counter(names)
    return [name if held[name] == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def compare(evaluations: Sequence[tuple[str, Evaluation]]) -> Comparison:
    """Join evaluations on the same windows; counters and an equal untuned backbone are kept once.

    Args:
        evaluations: A name and an evaluation of every model, at least one.

    Raises:
        EdgebError: two models that see histories of different lengths, or group the behaviors differently.
    """
    first_name, first = evaluations[0]
    found = {name: held for name, held in first.results.items() if name in COUNTERS}
    untuned = {held.untuned_sha256 for _, held in evaluations if UNTUNED in held.results}
    for name, evaluation in evaluations:
        if _windows(evaluation) != _windows(first):
            raise EdgebError(
                f"{first_name} and {name} cannot share a table: their windows differ, or what counts as tail does",
                "evaluate them one by one; layout.history_length and a_tuning.anchor_threshold have to agree",
            )
        for system, metrics in evaluation.results.items():
            if system in COUNTERS:
                continue
            shared = system == UNTUNED and len(untuned) == 1 and untuned != {None}
            found[system if shared else f"{name}/{system.removeprefix('bundle_')}"] = metrics
    return Comparison(found, first.dataset)


def _windows(evaluation: Evaluation) -> dict[str, list[tuple[str, str, int]]]:
    """What tells sets of windows of one dataset apart: per protocol, every behavior's group and number of windows."""
    some: dict[str, Metrics] = dict(evaluation.results[COUNTERS[0]])
    return {name: [(b.behavior, b.group, b.support) for b in held.per_behavior] for name, held in some.items()}
