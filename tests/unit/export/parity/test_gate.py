"""The gate's numbers against definitions written out, and its scorers against each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.scoring import Floats, log_softmax
from edge_behavior.export.gguf.format_search import tail_gain, tail_hurt
from edge_behavior.export.parity import samples as parity_samples
from edge_behavior.export.parity.gate import (
    Accuracies,
    Difference,
    ParityError,
    StageParity,
    exceeded,
    loss_errors,
    parity_report,
)
from edge_behavior.export.parity.samples import BETWEEN, Samples, SampleSizes, draw_samples
from edge_behavior.export.parity.scores import REFERENCE, StageScores
from edge_behavior.export.profiles import ParitySettings
from edge_behavior.export.source import ExportSource
from edge_behavior.hf import tree_scoring
from edge_behavior.hf.tree_scoring import PromptScores
from edge_behavior.util.timebox import Forecast, TimeBudget
from tests import helpers

GROUPS = ("head", "medium", "tail", "tail")
LABELS = ("a", "b", "c", "d")


def source(labels: Sequence[str], places: tuple[str, ...] | None = None) -> ExportSource:
    return ExportSource("base", None, CandidateSet.of(labels), PromptLayout(), places=places)


def samples(truth: list[int], balanced: list[bool]) -> Samples:
    made = draw_samples(source(LABELS, ("x",)), SampleSizes(len(truth), 0))
    count = len(truth)
    flags = np.array(balanced)
    return Samples(made.windows, np.array(truth), np.arange(count), ~flags, flags, LABELS, GROUPS)


@given(st.integers(0, 10_000), st.floats(0, 3))
def test_difference_is_what_it_says(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    before = log_softmax(rng.normal(0, 3, (7, 5)))
    after = log_softmax(before + rng.normal(0, noise, (7, 5)))
    found = asdict(Difference.between(before, after))
    flips, kl, largest = 0, [], 0.0
    for p, q in zip(before, after, strict=True):
        flips += int(np.argmax(p) != np.argmax(q))
        kl.append(sum(np.exp(a) * (a - b) for a, b in zip(p, q, strict=True)))
        largest = max([largest, *(abs(a - b) for a, b in zip(p, q, strict=True) if np.exp(a) >= 1e-3)])
    assert found["flips"] == pytest.approx(flips / 7)
    assert (found["mean_kl"], found["max_kl"]) == (pytest.approx(np.mean(kl)), pytest.approx(max(kl)))
    assert found["max_log_prob"] == pytest.approx(largest)
    assert found["mean_kl"] > -1e-12
    assert Difference.between(before, before) == Difference(0, 0, 0, 0)


def test_accuracies_by_window_kind() -> None:
    drawn = samples([0, 1, 2, 3, 3, 0], [False, False, True, True, True, True])
    scores = log_softmax(np.eye(4)[[0, 0, 2, 3, 0, 0]])
    # Natural: one of two. Balanced: c 1, d 1/2, a 1; no b.
    assert Accuracies.of(scores, drawn) == Accuracies(0.5, head=1.0, medium=None, tail=0.75)
    synthetic = draw_samples(source(LABELS), SampleSizes(6, 0))
    assert Accuracies.of(scores, synthetic) == Accuracies(None, None, None, None)


def test_every_stage_is_told_apart() -> None:
    drawn = samples([0, 1, 2], [False, True, True])
    right = log_softmax(4 * np.eye(4)[[0, 1, 2]])
    wrong = log_softmax(4 * np.eye(4)[[0, 1, 3]])
    measured = parity_report({REFERENCE: right, "convert": right, "quantize": wrong}, drawn, ParitySettings())
    report = measured.to_dict()
    assert list(report["stages"]) == ["convert", "quantize"]
    assert report["stages"]["convert"]["step"]["flips"] == 0
    assert report["stages"]["quantize"]["step"]["flips"] == pytest.approx(1 / 3)
    assert (report["windows"], report["natural"], report["balanced"], report["held_out"]) == (3, 1, 2, True)
    assert [text.split()[0] for text in report["exceeded"]] == ["another", "KL", "the"]
    assert json.loads(json.dumps(report)) == report
    error = ParityError("Q4_0", measured)
    assert (error.exit_code, error.report) == (1, measured)


def test_a_step_may_be_compared_on_some_windows() -> None:
    drawn = samples([0, 1, 2], [False, True, True])
    right = log_softmax(4 * np.eye(4)[[0, 1, 2]])
    some = log_softmax(4 * np.eye(4)[[0, 3, 2]])
    some[2] = np.nan
    report = parity_report({REFERENCE: right, "convert": some, "quantize": right}, drawn, ParitySettings())
    convert, last = report.stages["convert"], report.stages["quantize"]
    assert (convert.windows, convert.total.flips, convert.accuracies) == (2, 0.5, Accuracies())
    assert (last.windows, last.total.flips, last.step.flips) == (3, 0.0, 0.5)
    assert last.accuracies == report.reference
    assert report.to_dict()["stages"]["convert"]["windows"] == 2


def test_the_tail_is_hurt_beyond_its_noise() -> None:
    truth = [2, 3] * 50
    drawn = samples(truth, [True] * 100)
    right = log_softmax(4 * np.eye(4)[truth])

    def wrong(count: int) -> Floats:
        found = right.copy()
        found[:count] = log_softmax(4 * np.eye(4)[[0] * count])
        return found

    assert not tail_hurt(right, right, drawn, 0.005)
    # One window of a hundred is more than the limit, and no more than chance.
    assert not tail_hurt(right, wrong(1), drawn, 0.005)
    assert tail_hurt(right, wrong(6), drawn, 0.005)
    assert not tail_hurt(right, wrong(6), drawn, 0.07)
    assert not tail_hurt(wrong(6), right, drawn, 0.005)
    assert not tail_hurt(right, wrong(6), replace(drawn, truth=None), 0.005)


def test_time_cuts_the_windows_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Slow:
        def __init__(self, model: object, encoder: object) -> None: ...

        def score(self, prompts: Sequence[Sequence[int]]) -> PromptScores:
            now[0] += 1.0 * len(prompts)
            scores, n = np.tile(np.arange(4.0), (len(prompts), 1)), len(prompts)
            return PromptScores(
                scores, np.ones_like(scores, dtype=bool), np.empty((n, 1), np.float32), np.zeros(n, int)
            )

    monkeypatch.setattr(tree_scoring, "TorchScorer", Slow)
    monkeypatch.setattr(parity_samples, "_MAX_SYNTHETIC", 200)
    encoder = PromptEncoder(lambda text: list(text.encode()), PromptLayout(), CandidateSet.of(LABELS), None, 0)

    def scored(seconds: float | None, between: int | None = 16) -> StageScores:
        now[0] = 0.0
        forecast = Forecast(TimeBudget(seconds, lambda: now[0]), {"torch": 1.0})
        made = StageScores(source(LABELS, ("x",)), encoder, SampleSizes(200, 0, between), 10_000, forecast)
        assert made.expected == 200
        made.score_torch(REFERENCE, None)
        assert made.expected == len(made.samples)
        made.score_torch("merge", None)
        return made

    free = scored(None)
    assert (len(free.samples), len(free.by_stage[REFERENCE])) == (200, 200)
    # A fifth of 600 s: six times 16 windows and not seven, which would take 112 of 120 s and the next 128.
    cut = scored(600.0)
    assert len(cut.samples) == len(cut.by_stage[REFERENCE]) == 112
    assert cut.samples.windows == free.samples.windows[:112]
    assert np.isnan(cut.by_stage["merge"]).any(1).sum() == 112 - 16
    # However little time there is.
    assert len(scored(10.0).samples) == 48
    assert not np.isnan(scored(600.0, None).by_stage["merge"]).any()


def test_limits_are_limits() -> None:
    reference = Accuracies(0.5, tail=0.3)
    total = Difference(0.05, 0.02, 1.0, 1.0)
    last = StageParity(total, Accuracies(0.48, tail=0.4), total, 40)
    lower = replace(last, accuracies=Accuracies(0.47, tail=0.4))
    assert exceeded(reference, last, ParitySettings(max_accuracy_loss=0.0201), {}) == []
    assert exceeded(reference, lower, ParitySettings(), {}) == ["accuracy lower by 0.030 (limit 0.020)"]
    assert exceeded(reference, lower, ParitySettings(), {"accuracy": 0.0149, "tail": 9.0}) != []
    assert exceeded(reference, replace(last, accuracies=Accuracies()), ParitySettings(), {}) == []


def test_few_windows_exceed_nothing_by_chance() -> None:
    reference = Accuracies(0.5, tail=0.3)
    total = Difference(0.08, 0.02, 1.0, 1.0)
    few, many = (StageParity(total, Accuracies(0.47, tail=0.3), total, windows) for windows in (48, 480))
    assert exceeded(reference, few, ParitySettings(), {"accuracy": 0.03}) == []
    assert [text.split()[0] for text in exceeded(reference, many, ParitySettings(), {"accuracy": 0.009})] == [
        "another",
        "accuracy",
    ]


def test_errors_of_losses_are_of_the_windows_that_turned() -> None:
    drawn = samples([0, 1, 2, 3], [False, False, True, True])
    right = log_softmax(4 * np.eye(4)[[0, 1, 2, 3]])
    turned = log_softmax(4 * np.eye(4)[[0, 2, 2, 3]])
    assert loss_errors(right, turned, drawn) == {"accuracy": pytest.approx(0.5 / np.sqrt(2)), "tail": 0.0}
    assert loss_errors(right, turned, replace(drawn, truth=None)) == {}


def test_the_tail_gains_only_by_the_tail() -> None:
    drawn = samples([0, 1, 2, 3], [True] * 4)
    base = log_softmax(np.array([[2.0, 0, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]))
    head = log_softmax(np.array([[9.0, 0, 0, 0], [0, 9, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]))
    likelier = log_softmax(np.array([[2.0, 0, 0, 0], [0, 2, 0, 0], [1, 0, 0.5, 0], [1, 0, 0, 0]]))
    found = log_softmax(np.array([[0.0, 9, 0, 0], [9, 0, 0, 0], [0, 0, 0.1, 0], [9, 0, 0, 0]]))
    assert not tail_gain(base, head, drawn)
    assert tail_gain(base, likelier, drawn)
    assert tail_gain(likelier, found, drawn)
    assert not tail_gain(found, likelier, drawn)
    assert not tail_gain(base, found, samples([0, 1], [True, True]).take(np.array([True, False])))


def test_sizes_follow_the_model() -> None:
    assert SampleSizes.of(ParitySettings(), 1_000_000) == SampleSizes(200, 5)
    assert SampleSizes.of(ParitySettings(), 1_500_000_000) == SampleSizes(60, 1, between=BETWEEN[1])
    assert SampleSizes.of(ParitySettings(windows=7, per_behavior=0), 10) == SampleSizes(7, 0)


def test_synthetic_windows_are_the_same_every_time() -> None:
    one, two = (draw_samples(source(helpers.LABELS), SampleSizes(50, 5), seed=3) for _ in range(2))
    assert one.windows == two.windows
    assert len(one) == 50
    assert {len(q.history) for q in one.windows} == {0, 1, 2, 5, 10, 20}
    assert one.truth is None
