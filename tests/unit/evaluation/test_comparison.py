"""Evaluations of several models become one table, if they are of the same windows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.comparison import Comparison, compare, distinct_names
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.metrics import Metrics, Outcome, behavior_metrics
from edge_behavior.evaluation.results import EvaluatedDataset, Evaluation
from edge_behavior.evaluation.tables import comparison_markdown

LABELS, GROUPS = ("a", "b", "c"), ("head", "medium", "tail")


def metrics(seed: int, truth: tuple[int, ...] = (0, 1, 1, 2), groups: tuple[str, ...] = GROUPS) -> Metrics:
    scores = np.random.default_rng(seed).normal(size=(len(truth), 3))
    return behavior_metrics(Outcome(scores, np.array(truth), np.arange(len(truth))), LABELS, groups, resamples=10)


def evaluation(counter: Metrics, sha256: str | None, /, **systems: Metrics) -> Evaluation:
    results = {name: {"natural": held} for name, held in {**systems, **dict.fromkeys(COUNTERS, counter)}.items()}
    subject = next(iter(systems))
    return Evaluation(results, subject, EvaluatedDataset("d", "f", True), untuned_sha256=sha256)


COUNTER, MODEL = metrics(0), metrics(1)


def test_every_system_is_named_after_its_model_and_counters_stand_once() -> None:
    run = evaluation(COUNTER, "x", b_tuning=MODEL, a_tuning=MODEL, untuned=MODEL)
    bundle = evaluation(COUNTER, None, bundle_fused=MODEL, bundle_habits=MODEL)
    found = compare([("r", run), ("m.gguf", bundle)])
    assert list(found.results) == [
        *COUNTERS,
        *("r/b_tuning", "r/a_tuning", "untuned"),
        *("m.gguf/fused", "m.gguf/habits"),
    ]
    assert found.results["m.gguf/fused"]["natural"] is MODEL
    assert Comparison.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [("x", "x", {"untuned"}), ("x", "y", {"r/untuned", "s/untuned"}), (None, None, {"r/untuned", "s/untuned"})],
)
def test_untuned_backbones_share_a_row_only_where_they_are_known_to_be_the_same(
    first: str | None, second: str | None, names: set[str]
) -> None:
    runs = [(name, evaluation(COUNTER, sha, untuned=MODEL)) for name, sha in (("r", first), ("s", second))]
    assert set(compare(runs).results) == {*COUNTERS, *names}


@pytest.mark.parametrize("other", [metrics(0, truth=(0, 1, 2, 2)), metrics(0, groups=("head", "tail", "tail"))])
def test_other_windows_or_another_tail_are_refused(other: Metrics) -> None:
    runs = [("r", evaluation(COUNTER, "x", tuned=MODEL)), ("s", evaluation(other, "x", tuned=MODEL))]
    with pytest.raises(EdgebError, match="r and s cannot share a table"):
        compare(runs)


def test_names_that_two_models_share_are_given_in_full(tmp_path: Path) -> None:
    paths = [Path("a/run"), Path("b/run"), Path("c.gguf")]
    assert distinct_names(paths) == ["a/run", "b/run", "c.gguf"]
    assert distinct_names(paths[1:]) == ["run", "c.gguf"]


def test_the_markdown_has_one_row_per_system_and_its_best_in_bold() -> None:
    found = compare([("r", evaluation(COUNTER, "x", tuned=MODEL))])
    text = comparison_markdown(found.results)
    assert "| r: plain fine-tuning |" in text
    assert text.count("\n| ") == len(COUNTERS) + 2
    assert "balanced" not in text
    assert "Natural protocol: 4 windows" in text
