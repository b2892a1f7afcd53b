"""A bundle measured as model, habits and both fused: each against its own formula, on the same windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.core.balance import FittedBalance, balance_offsets
from edge_behavior.core.calibration import Calibration, CalibrationSet
from edge_behavior.core.candidates import GROUPS, CandidateSet
from edge_behavior.core.fusion import GroupWeights, Mixture
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.info import PlaceInfo
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation import bundles as module
from edge_behavior.evaluation.bundles import bundle_log_probs, evaluate_bundle
from edge_behavior.evaluation.calibration import expected_calibration_error
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.evaluation.metrics import Outcome, behavior_metrics
from edge_behavior.evaluation.protocols import WindowChoice, protocols
from tests import helpers
from tests.dataset_info import dataset_info

L = 5
USERS = [["Video", "Bar"] * 20, ["Bar", "Café", "Video"] * 12, ["Video", "Cafe Noir", "Video", "Bar"] * 4]
TABLE = helpers.event_table(USERS)
CHOICE = WindowChoice(per_user=7, per_behavior=6)
WEIGHTS = {"head": GroupWeights(0.5, 0.7, 0.1), "medium": GroupWeights(1, 0, 0), "tail": GroupWeights(0.2, 0.9, -1)}
HELD = Mixture(HabitsConfig(half_life=9), WEIGHTS, "fused")


class FakePredictor:
    """A model that knows its last L events only; masked scoring turns the order round in even windows."""

    accelerator = None

    def __init__(self, habits, labels=helpers.LABELS):
        self.manifest = Manifest(
            created_with="edgeb test",
            candidates=helpers.event_table(USERS, labels).candidates,
            layout=PromptLayout(history_length=L),
            bos_id=None,
            eos_id=0,
            architecture="qwen2",
            quantization="F32",
            context_length=2048,
            base_model=BaseModelInfo("x", None, "00"),
            habits=habits,
        )
        self.closed, self.population = False, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True

    def log_probs(self, history, when, place, scoring="exact"):
        assert len(history) == L
        assert history[-1].time < when
        row = -np.random.default_rng(when.toordinal() * 24 + when.hour).exponential(3, len(helpers.LABELS))
        return -row - 20 if scoring == "masked" and when.hour % 2 == 0 else row


@pytest.fixture
def load(monkeypatch):
    """Make `evaluate_bundle` find this bundle and the dataset above."""

    def make(habits, labels=helpers.LABELS, places=True) -> FakePredictor:
        made = type("Synthetic", (Dataset,), {"events": lambda self, split: TABLE})
        predictor = FakePredictor(habits, labels)
        info = dataset_info(TABLE.candidates, place=PlaceInfo(kind="column" if places else "none", count=0))
        monkeypatch.setattr(module.Dataset, "open", lambda path: made(Path("d"), info, TABLE.candidates))
        monkeypatch.setattr(module.Predictor, "load", lambda path, **options: predictor)
        return predictor

    return make


def scores_of(predictor: FakePredictor, targets: np.ndarray) -> dict[str, np.ndarray]:
    model = bundle_log_probs(predictor, TABLE, targets)
    habits = habit_log_probs(TABLE, targets, TABLE.candidates.counts, HabitsConfig(half_life=9))
    w = [WEIGHTS[group] for group in TABLE.candidates.groups()]
    fused = np.array(
        [
            [x.model * a + x.habits * b + x.bias for x, a, b in zip(w, *rows, strict=True)]
            for rows in zip(model, habits, strict=True)
        ]
    )
    return {"model": model, "habits": habits, "fused": fused}


@pytest.mark.parametrize("default", ["model", "habits", "fused"])
def test_every_source_is_measured_and_the_default_is_on_top(load, default):
    predictor = load(replace(HELD, default=default))
    found = evaluate_bundle(Path("b.gguf"), Path("d"), "both", "test", CHOICE).to_dict()
    assert predictor.closed
    assert found["source"] == default
    others = {f"bundle_{s}" for s in ("model", "habits", "fused") if s != default}
    assert set(found["baselines"]) == {*COUNTERS, *others}
    assert found["balance"] == {"model": 0, "habits": 0, "fused": 0}
    names = {"source", "natural", "balanced", "baselines", "by_history", "masked_differs", "calibration", "dataset"}
    names |= {"accelerator", "balance"}
    assert set(found) == names
    assert found["calibration"] is None
    for protocol in protocols("both", TABLE, L, CHOICE):
        for source, scores in scores_of(predictor, protocol.targets).items():
            truth = TABLE.behavior[protocol.targets].astype(np.int64)
            outcome = Outcome(scores, truth, TABLE.user_of(protocol.targets))
            expected = behavior_metrics(outcome, TABLE.candidates.labels, TABLE.candidates.groups())
            measured = found if source == default else found["baselines"][f"bundle_{source}"]
            assert measured[protocol.name] == expected.to_dict()
            share = sum(b["windows"] * b["accuracy"][source] for b in found["by_history"][protocol.name])
            assert share == pytest.approx(expected.weighted_recall * len(truth))


def test_a_bundle_without_fitted_habits(load):
    load(None)
    found = evaluate_bundle(Path("b.gguf"), Path("d"), "natural", "test", CHOICE).to_dict()
    assert found["source"] == "model"
    assert set(found["baselines"]) == {*COUNTERS, "bundle_habits"}
    assert set(found["by_history"]["natural"][0]["accuracy"]) == {"model", "habits"}


def test_a_calibrated_bundle(load):
    """Metrics are of the calibrated scores; before and after are beside them."""
    predictor = load(HELD)
    bias = {"head": -0.3, "medium": 0.2, "tail": 0.9}
    own = Calibration(1.7, bias, {0.8: 0.1, 0.9: 0.02}, {0.5: 0.4, 0.9: None})
    other = Calibration(0.6)
    held = CalibrationSet({"model": own, "habits": other, "fused": own})
    predictor.manifest = replace(predictor.manifest, calibration=held)
    found = evaluate_bundle(Path("b.gguf"), Path("d"), "both", "test", CHOICE).to_dict()
    groups = TABLE.candidates.groups()
    assert set(found["calibration"]) == {"natural", "balanced"}
    for protocol in protocols("both", TABLE, L, CHOICE):
        truth = TABLE.behavior[protocol.targets].astype(np.int64)
        measured = found["calibration"][protocol.name]
        assert list(measured) == ["model", "habits", "fused"]
        for source, raw in scores_of(predictor, protocol.targets).items():
            calibration = other if source == "habits" else own
            scores = raw / calibration.temperature + np.array([calibration.bias[g] for g in groups])
            after = log_softmax(scores)
            assert measured[source]["windows"] == len(truth)
            assert measured[source]["ece"]["before"] == pytest.approx(
                expected_calibration_error(log_softmax(raw), truth)
            )
            assert measured[source]["ece"]["after"] == pytest.approx(expected_calibration_error(after, truth))
            shown = found if source == "fused" else found["baselines"][f"bundle_{source}"]
            assert shown[protocol.name]["nll"] == pytest.approx(measured[source]["nll"]["after"])
            assert shown[protocol.name]["weighted_recall"] == pytest.approx((scores.argmax(1) == truth).mean())
            if source != "habits":
                inside = np.exp(after)[np.arange(len(truth)), truth] >= 0.1
                assert measured[source]["coverage"]["0.8"]["overall"] == pytest.approx(
                    (inside | (after.argmax(1) == truth)).mean()
                )
                assert measured[source]["precision"]["0.9"]["suggested"] == 0


BALANCED = Calibration(1.4, {"head": 0.2, "medium": 0.0, "tail": -0.3}, {0.8: 0.05}, {0.5: 0.2})


@pytest.mark.parametrize(("balance", "calibrated"), [(0.6, False), (0.5, True), ("fitted", True)])
def test_a_balanced_bundle(load, balance, calibrated):
    """Metrics are of the balanced scores, calibrated where that was fitted for this balance."""
    predictor = load(HELD)
    sources = ("model", "habits", "fused")
    fitted = FittedBalance(dict.fromkeys(sources, 0.5), CalibrationSet(dict.fromkeys(sources, BALANCED)))
    own = CalibrationSet(dict.fromkeys(sources, Calibration(9.0)))
    predictor.manifest = replace(predictor.manifest, calibration=own, balance=fitted)
    asked = evaluate_bundle(Path("b.gguf"), Path("d"), "both", "test", CHOICE, balance=balance)
    found = asked.to_dict()
    shown = 0.5 if balance == "fitted" else balance
    assert found["balance"] == dict.fromkeys(sources, shown)
    groups = TABLE.candidates.groups()
    for protocol in protocols("both", TABLE, L, CHOICE):
        truth = TABLE.behavior[protocol.targets].astype(np.int64)
        for source, raw in scores_of(predictor, protocol.targets).items():
            scores = raw + balance_offsets(shown, TABLE.candidates.counts)
            if calibrated:
                scores = scores / 1.4 + np.array([BALANCED.bias[g] for g in groups])
            outcome = Outcome(scores, truth, TABLE.user_of(protocol.targets))
            expected = behavior_metrics(outcome, TABLE.candidates.labels, groups)
            measured = asked.results[f"bundle_{source}"][protocol.name]
            # The sums of fused scores are added up in another order.
            assert replace(measured, nll=0.0) == replace(expected, nll=0.0)
            assert measured.nll == pytest.approx(expected.nll)
        if calibrated:
            assert list(found["calibration"][protocol.name]) == list(sources)
    assert calibrated or found["calibration"] is None


def test_a_fitted_balance_that_is_not_there(load):
    predictor = load(HELD)
    predictor.log_probs = lambda *_: pytest.fail("was scored")
    with pytest.raises(EdgebError, match="the bundle has no fitted balance"):
        evaluate_bundle(Path("b.gguf"), Path("d"), "natural", "test", CHOICE, balance="fitted")


def test_how_often_masked_scoring_says_something_else(load, monkeypatch):
    predictor = load(HELD)
    found = evaluate_bundle(Path("b.gguf"), Path("d"), "natural", "test", CHOICE).to_dict()["masked_differs"]
    targets = protocols("natural", TABLE, L, CHOICE)[0].targets
    exact, masked = (bundle_log_probs(predictor, TABLE, targets, s).argmax(1) for s in ("exact", "masked"))
    assert found == {"share": pytest.approx((exact != masked).mean()), "windows": len(targets)}
    assert 0 < found["share"] < 1
    monkeypatch.setattr(module, "MASKED_WINDOWS", 4)
    assert evaluate_bundle(Path("b.gguf"), Path("d"), "natural", "test", CHOICE).masked_differs.windows == 4


def test_another_candidate_set(load):
    predictor = load(None, helpers.LABELS[::-1])
    with pytest.raises(EdgebError, match=r"b\.gguf and the dataset have different candidate sets"):
        evaluate_bundle(Path("b.gguf"), Path("d"), "natural", "test", CHOICE)
    assert predictor.closed


def test_groups_of_the_weights_are_the_manifests():
    assert set(TABLE.candidates.groups()) <= set(GROUPS)
    assert len(set(TABLE.candidates.groups())) > 1


def test_a_dataset_without_the_bundles_places(load):
    predictor = load(None, places=False)
    with pytest.raises(EdgebError, match=r"b\.gguf was trained with places, and d has none"):
        evaluate_bundle(Path("b.gguf"), Path("d"), "natural", "test", CHOICE)
    predictor.manifest = replace(predictor.manifest, layout=PromptLayout(history_length=L, places=False))
    assert evaluate_bundle(Path("b.gguf"), Path("d"), "natural", "test", CHOICE).source == "model"


def test_whose_dataset_it_is_shows_in_the_training_counts(load):
    """The same labels in the same order, of another split: its test windows may have been trained on."""
    predictor = load(None)
    assert evaluate_bundle(Path("b.gguf"), Path("d"), "natural", "test", CHOICE).dataset.own is True
    own = predictor.manifest.candidates
    more = CandidateSet(own.labels, tuple(count + 1 for count in own.counts))
    predictor.manifest = replace(predictor.manifest, candidates=more)
    found = evaluate_bundle(Path("b.gguf"), Path("d"), "natural", "test", CHOICE).dataset
    assert (found.path, found.own) == ("d", False)
