"""Balanced predictions: what the search proves is what the formula says of all labels, for every source and scoring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.balance import FittedBalance
from edge_behavior.core.calibration import Calibration, CalibrationSet
from edge_behavior.core.candidates import GROUPS, CandidateSet
from edge_behavior.core.fusion import SOURCES, GroupWeights, Mixture
from edge_behavior.core.habits import HabitCounter, HabitsConfig
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.prediction import Prediction
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests import helpers

# The last one was never seen in training.
COUNTS = (900, 200, 30, 20, 10, 6, 4, 2, 0)
SHARES = 0.99 * np.array(COUNTS) / sum(COUNTS) + 0.01 / len(COUNTS)
EVENTS = helpers.diary(24, 3)
WHEN, PLACE = EVENTS[-1].time, "DK"
WEIGHTS = {"head": GroupWeights(0.7, 0.5, 0.1), "medium": GroupWeights(0, 1.4, 0), "tail": GroupWeights(0.9, 0, -0.2)}
HABITS = Mixture(HabitsConfig(), WEIGHTS, "fused")
PLAIN = Calibration(2.5, {"head": -0.7, "medium": 0.2, "tail": 1.1}, {0.8: 0.15}, {0.5: 0.2})
BALANCED = Calibration(1.3, {"head": 0.3, "medium": -0.2, "tail": 0.0}, {0.8: 0.1}, {0.5: 0.3})
FITTED = {"model": 0.25, "habits": 0.6, "fused": 1.1}
RAW = Calibration()
SET = CalibrationSet(dict.fromkeys(SOURCES, PLAIN))
HELD = FittedBalance(FITTED, CalibrationSet(dict.fromkeys(SOURCES, BALANCED)))
# Rows of other batches differ by this much.
CLOSE = 2e-4


class Shared:
    """One loaded model, predictors with any manifest on it."""

    def __init__(self, path: Path) -> None:
        self.opened = Predictor.load(path, threads=1, exact_math=True, prefix_cache=False)
        self.base = replace(
            self.opened.manifest, candidates=CandidateSet(self.opened.manifest.candidates.labels, COUNTS), habits=HABITS
        )
        counter = HabitCounter(COUNTS, HabitsConfig())
        for event in EVENTS:
            counter.observe(self.base.candidates.code(event.behavior), event.time, event.place)
        habits = counter.log_probs(WHEN, PLACE)
        self.groups = self.base.candidates.groups()
        w = [WEIGHTS[group] for group in self.groups]
        self.raw = {}
        for scoring in ("exact", "masked"):
            model = self.opened.log_probs(EVENTS, WHEN, PLACE, scoring)
            fused = np.array([x.model * m + x.habits * h + x.bias for x, m, h in zip(w, model, habits, strict=True)])
            self.raw |= {("model", scoring): model, ("habits", scoring): habits, ("fused", scoring): fused}

    def predictor(self, **changes: Any) -> Predictor:
        return Predictor(replace(self.base, **changes), self.opened._ranker.backend)

    def expected(
        self,
        source: str,
        balance: float,
        calibration: Calibration = RAW,
        scoring: str = "exact",
        allowed: set[str] | None = None,
    ) -> dict[str, float]:
        """Probability of every label, from the formula over all of them."""
        scores = self.raw[source, scoring] - balance * np.log(SHARES)
        scores = scores / calibration.temperature + np.array([calibration.bias[group] for group in self.groups])
        labels = self.base.candidates.labels
        if allowed is not None:
            scores = np.where([label in allowed for label in labels], scores, -np.inf)
        found = np.exp(log_softmax(scores))
        return {label: float(p) for label, p in zip(labels, found, strict=True) if p > 0}


@pytest.fixture(scope="module")
def shared(small_bundle: Path) -> Iterator[Shared]:
    made = Shared(small_bundle)
    yield made
    made.opened.close()


def ask(predictor: Predictor, top_k: int | None = None, **wanted: Any) -> Prediction:
    return predictor.predict(EVENTS, WHEN, PLACE, top_k, options=PredictOptions(**wanted))


def probabilities(prediction: Prediction) -> dict[str, float]:
    return {r.behavior: r.probability for r in prediction.ranked}


balances = st.sampled_from([0.0, 0.25, 1.0, 2.0]) | st.floats(0, 2)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    balance=balances,
    source=st.sampled_from(SOURCES),
    scoring=st.sampled_from(["exact", "masked"]),
    top_k=st.integers(1, 9),
    part=st.none() | st.sets(st.sampled_from(helpers.LABELS), min_size=1),
)
def test_the_top_is_that_of_all_labels(
    shared: Shared, balance: float, source: str, scoring: str, top_k: int, part: set[str] | None
) -> None:
    if scoring == "masked":
        # A subset's masked distribution is that of its own trie: see the next test.
        part = None
    only = None if part is None else sorted(part)
    expected = shared.expected(source, balance, scoring=scoring, allowed=part)
    found = ask(shared.predictor(), top_k, source=source, scoring=scoring, only=only, balance=balance)
    assert (found.balance, found.calibrated) == (balance, False)
    assert len(found.ranked) == min(top_k, len(expected))
    best = sorted(expected.values(), reverse=True)[:top_k]
    for shown, true in zip(found.ranked, best, strict=False):
        # Candidates that are as good as equal may change places.
        own = expected[shown.behavior]
        assert own == pytest.approx(true, abs=CLOSE)
        assert shown.probability <= own + CLOSE
        assert own <= shown.probability / max(1 - found.unexpanded, 1e-12) + CLOSE
    whole = ask(shared.predictor(), source=source, scoring=scoring, only=only, balance=balance)
    assert probabilities(whole) == pytest.approx(expected, abs=CLOSE)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    balance=balances,
    scoring=st.sampled_from(["exact", "masked"]),
    part=st.sets(st.sampled_from(helpers.LABELS), min_size=2),
    top_k=st.integers(1, 4),
)
def test_a_subset_is_balanced_as_it_is(
    shared: Shared, balance: float, scoring: str, part: set[str], top_k: int
) -> None:
    """The probabilities without a balance, each divided by its share to the power of τ."""
    predictor = shared.predictor()
    wanted: dict[str, Any] = {"source": "model", "scoring": scoring, "only": sorted(part)}
    share = dict(zip(helpers.LABELS, SHARES, strict=True))
    weights = {r.behavior: r.probability / share[r.behavior] ** balance for r in ask(predictor, **wanted).ranked}
    expected = {label: weight / sum(weights.values()) for label, weight in weights.items()}
    found = ask(predictor, top_k, balance=balance, **wanted)
    best = sorted(expected.values(), reverse=True)[:top_k]
    # Small probabilities of float32 logits divided by small shares: the error is relative.
    assert [expected[r.behavior] for r in found.ranked] == pytest.approx(best, rel=1e-3, abs=CLOSE)
    assert probabilities(ask(predictor, balance=balance, **wanted)) == pytest.approx(expected, rel=1e-3, abs=CLOSE)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    balance=balances,
    temperature=st.floats(0.2, 5),
    bias=st.fixed_dictionaries({name: st.floats(-4, 4) for name in GROUPS}),
    source=st.sampled_from(SOURCES),
    least=st.floats(0, 1),
    member=st.sampled_from([0.0, 0.01, 0.1, 0.4, 1.0]),
    top_k=st.sampled_from([1, 3, None]),
)
def test_decisions_are_those_of_all_labels(
    shared: Shared,
    balance: float,
    temperature: float,
    bias: dict[str, float],
    source: str,
    least: float,
    member: float,
    top_k: int | None,
) -> None:
    """τ comes first, then temperature and biases, at whichever τ was fitted."""
    own = Calibration(temperature, bias, {0.9: member}, {0.8: least})
    fitted = FittedBalance(dict.fromkeys(SOURCES, balance), CalibrationSet(dict.fromkeys(SOURCES, own)))
    # At τ = 0 the calibration is the bundle's own.
    at_zero = CalibrationSet(dict.fromkeys(SOURCES, own if balance == 0 else PLAIN))
    predictor = shared.predictor(calibration=at_zero, balance=fitted)
    found = ask(predictor, top_k, source=source, balance="fitted", precision=0.8, coverage=0.9)
    assert (found.balance, found.calibrated) == (balance, True)
    expected = shared.expected(source, balance, own)
    best = max(expected.values())
    assert found.likely is not None
    assert found.likely[0] == found.ranked[0].behavior
    if abs(best - least) > CLOSE:
        assert found.suggest == (best >= least)
    for label, p in expected.items():
        if abs(p - member) > CLOSE and abs(p - best) > CLOSE:
            assert (label in found.likely) == (p >= member)


class TestWhatIsAskedFor:
    @pytest.mark.parametrize("source", SOURCES)
    def test_each_fitted_balance_has_its_own_calibration(self, shared: Shared, source: str) -> None:
        predictor = shared.predictor(calibration=SET, balance=HELD)
        for balance, shown, calibration in (
            (0.0, 0.0, PLAIN),
            ("fitted", FITTED[source], BALANCED),
            (FITTED[source], FITTED[source], BALANCED),
            (0.4, 0.4, None),
        ):
            found = ask(predictor, source=source, balance=balance)
            assert (found.balance, found.calibrated) == (shown, calibration is not None)
            expected = shared.expected(source, shown, calibration or RAW)
            assert probabilities(found) == pytest.approx(expected, abs=CLOSE)
            raw = ask(predictor, source=source, balance=balance, calibrated=False)
            assert not raw.calibrated
            assert probabilities(raw) == pytest.approx(shared.expected(source, shown), abs=CLOSE)

    def test_zero_unless_asked(self, shared: Shared) -> None:
        found = ask(shared.predictor(calibration=SET, balance=HELD), source="model")
        assert found.balance == 0
        assert probabilities(found) == pytest.approx(shared.expected("model", 0.0, PLAIN), abs=CLOSE)

    def test_it_finds_the_one_that_training_never_saw(self, shared: Shared) -> None:
        unseen = helpers.LABELS[-1]
        ranks = [
            [r.behavior for r in ask(shared.predictor(), source="habits", balance=balance).ranked].index(unseen)
            for balance in (0.0, 1.0, 2.0)
        ]
        assert ranks == sorted(ranks, reverse=True)
        assert ranks[0] > ranks[-1]

    @pytest.mark.parametrize("wanted", [{"precision": 0.5}, {"coverage": 0.8}])
    def test_decisions_are_refused_where_nothing_was_measured(self, shared: Shared, wanted: dict[str, Any]) -> None:
        predictor = shared.predictor(calibration=SET, balance=HELD)
        with pytest.raises(EdgebError, match=r"precision and coverage were not measured at balance 0\.4") as caught:
            ask(predictor, source="fused", balance=0.4, **wanted)
        assert caught.value.hint == "use balance 0, or the fitted 1.1"
        for fitted in (None, FittedBalance(FITTED)):
            with pytest.raises(EdgebError, match=r"not measured at balance 0\.4") as caught:
                ask(shared.predictor(calibration=SET, balance=fitted), source="model", balance=0.4, **wanted)
            assert caught.value.hint == "use balance 0"
        with pytest.raises(EdgebError, match="the bundle is not calibrated"):
            ask(shared.predictor(), source="model", balance=0.4, **wanted)
        with pytest.raises(EdgebError, match="measured under exact scoring"):
            ask(predictor, source="model", balance="fitted", scoring="masked", **wanted)

    def test_nothing_was_fitted(self, shared: Shared) -> None:
        with pytest.raises(EdgebError, match="the bundle has no fitted balance") as caught:
            ask(shared.predictor(calibration=SET), balance="fitted")
        assert "pass a number" in caught.value.hint
        relabeled = ask(shared.predictor(balance=FittedBalance(FITTED)), source="model", balance="fitted")
        assert (relabeled.balance, relabeled.calibrated) == (0.25, False)

    def test_unknown_counts(self, shared: Shared) -> None:
        labels = shared.base.candidates.labels
        unknown = CandidateSet(labels, (0,) * len(labels))
        predictor = shared.predictor(candidates=unknown)
        assert ask(predictor, source="model").balance == 0
        with pytest.raises(EdgebError, match="the training counts are unknown"):
            ask(predictor, source="model", balance=0.25)

    @pytest.mark.parametrize("balance", [-0.1, 2.1, float("nan"), "most", None, True])
    def test_impossible_values(self, balance: Any) -> None:
        with pytest.raises(EdgebError, match="balance is "):
            PredictOptions(balance=balance)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(balance=balances, source=st.sampled_from(SOURCES), top_k=st.integers(1, 5))
    def test_a_session_says_the_same(self, shared: Shared, balance: float, source: str, top_k: int) -> None:
        predictor = shared.predictor()
        session = predictor.session()
        for event in EVENTS[-20:]:
            session.observe(event)
        options = PredictOptions(source=source, balance=balance)
        # The balance of one question is none of the next.
        session.predict(WHEN, PLACE, top_k, options=PredictOptions(source=source, balance=2.0))
        found = session.predict(WHEN, PLACE, None, options=options)
        whole = probabilities(predictor.predict(EVENTS[-20:], WHEN, PLACE, None, options=options))
        assert (found.balance, probabilities(found)) == (balance, pytest.approx(whole, abs=CLOSE))
        first = session.predict(WHEN, PLACE, top_k, options=options).ranked
        best = sorted(whole.values(), reverse=True)
        assert [whole[r.behavior] for r in first] == pytest.approx(best[:top_k], abs=CLOSE)


class TestFiles:
    def manifest(self, small_bundle: Path) -> Manifest:
        base = read_manifest(small_bundle)
        candidates = CandidateSet(base.candidates.labels, COUNTS)
        return replace(base, candidates=candidates, habits=HABITS, calibration=SET, balance=HELD)

    def test_it_comes_with_the_bundle(self, small_bundle: Path, tmp_path: Path) -> None:
        write_bundle(small_bundle, self.manifest(small_bundle), tmp_path / "m.gguf")
        assert read_manifest(tmp_path / "m.gguf").balance == HELD
        with Predictor.load(tmp_path / "m.gguf", threads=1, prefix_cache=False) as predictor:
            found = ask(predictor, 1, balance="fitted")
        assert (found.source, found.balance, found.calibrated) == ("fused", 1.1, True)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"fitted": {"model": 0.25}}, r"manifest\.balance\.fitted: field 'habits' is missing"),
            ({"fitted": {**FITTED, "model": 9}}, r"manifest\.balance\.fitted: 'model' is 9"),
            ({"calibration": {}}, r"manifest\.balance\.calibration: field 'model' is missing"),
            ({"measured": None}, r"manifest\.balance: field 'measured' is None"),
            ({"more": 1}, r"manifest\.balance: unknown field 'more'"),
        ],
    )
    def test_damaged_ones_are_refused(
        self, change: dict[str, Any], message: str, small_bundle: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "bad.gguf"
        manifest = self.manifest(small_bundle)
        helpers.write_edited(small_bundle, manifest, path, lambda fields: fields["balance"].update(change))
        with pytest.raises(EdgebError, match=message):
            Predictor.load(path, threads=1)
