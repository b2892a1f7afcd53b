"""Calibrated predictions: what the search proves is what the whole calibrated distribution says, for every source."""

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
from edge_behavior.core.calibration import Calibration, CalibrationSet
from edge_behavior.core.candidates import GROUPS, CandidateSet
from edge_behavior.core.fusion import SOURCES, GroupWeights, Mixture
from edge_behavior.core.habits import HabitCounter, HabitsConfig
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.prediction import Prediction
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests import helpers

COUNTS = (900, 200, 30, 20, 10, 6, 4, 2, 1)
EVENTS = helpers.diary(24, 3)
WHEN, PLACE = EVENTS[-1].time, "DK"
WEIGHTS = {"head": GroupWeights(0.7, 0.5, 0.1), "medium": GroupWeights(0, 1.4, 0), "tail": GroupWeights(0.9, 0, -0.2)}
HABITS = Mixture(HabitsConfig(), WEIGHTS, "fused")
OWN = {
    "model": Calibration(
        2.5, {"head": -0.7, "medium": 0.2, "tail": 1.1}, {0.8: 0.15, 0.95: 0.02}, {0.5: 0.2, 0.9: None}
    ),
    "habits": Calibration(0.8, dict.fromkeys(GROUPS, 0.0), {0.8: 0.3}, {0.5: 0.1}),
    "fused": Calibration(
        1.7, {"head": 0.4, "medium": -0.3, "tail": 0.0}, {0.8: 0.1, 0.95: 0.0}, {0.5: 0.999, 0.7: 0.1}
    ),
}


def manifest_with(base: Manifest, calibrations: dict[str, Calibration] | None) -> Manifest:
    held = None if calibrations is None else CalibrationSet(calibrations)
    return replace(base, candidates=CandidateSet(base.candidates.labels, COUNTS), habits=HABITS, calibration=held)


class Shared:
    """One loaded model, predictors with any manifest on it."""

    def __init__(self, path: Path) -> None:
        self.opened = Predictor.load(path, threads=1, exact_math=True, prefix_cache=False)
        self.base = self.opened.manifest
        candidates = CandidateSet(self.base.candidates.labels, COUNTS)
        counter = HabitCounter(COUNTS, HabitsConfig())
        for event in EVENTS:
            counter.observe(candidates.code(event.behavior), event.time, event.place)
        model, habits = self.opened.log_probs(EVENTS, WHEN, PLACE), counter.log_probs(WHEN, PLACE)
        self.groups = candidates.groups()
        w = [WEIGHTS[group] for group in self.groups]
        fused = np.array([x.model * m + x.habits * h + x.bias for x, m, h in zip(w, model, habits, strict=True)])
        self.raw = {"model": model, "habits": habits, "fused": fused}

    def predictor(self, calibrations: dict[str, Calibration] | None) -> Predictor:
        return Predictor(manifest_with(self.base, calibrations), self.opened._ranker.backend)

    def expected(self, source: str, calibration: Calibration, allowed: list[str] | None = None) -> dict[str, float]:
        """Probability of every label, from the formula."""
        bias = np.array([calibration.bias[group] for group in self.groups])
        scores = self.raw[source] / calibration.temperature + bias
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


calibrations = st.builds(
    Calibration, st.floats(0.2, 5), st.fixed_dictionaries({name: st.floats(-4, 4) for name in GROUPS})
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calibration=calibrations,
    source=st.sampled_from(SOURCES),
    top_k=st.integers(1, 9),
    part=st.none() | st.sets(st.sampled_from(helpers.LABELS), min_size=1),
    excluding=st.booleans(),
)
def test_the_top_is_that_of_the_whole_distribution(
    shared: Shared, calibration: Calibration, source: str, top_k: int, part: set[str] | None, excluding: bool
) -> None:
    predictor = shared.predictor(dict.fromkeys(SOURCES, calibration))
    restricted: dict[str, Any] = {}
    if part is not None:
        rest = [label for label in helpers.LABELS if label not in part]
        restricted = {"exclude": rest} if excluding else {"only": sorted(part)}
    expected = shared.expected(source, calibration, None if part is None else sorted(part))
    found = ask(predictor, top_k=top_k, source=source, **restricted)
    assert found.calibrated
    assert len(found.ranked) == min(top_k, len(expected))
    best = sorted(expected.values(), reverse=True)[:top_k]
    for own, true, shown in zip((expected[r.behavior] for r in found.ranked), best, found.ranked, strict=False):
        # Candidates that are as good as equal may change places.
        assert own == pytest.approx(true, abs=2e-4)
        assert shown.probability <= own + 2e-4
        assert own <= shown.probability / max(1 - found.unexpanded, 1e-12) + 2e-4
    whole = ask(predictor, source=source, exhaustive=True, **restricted)
    assert probabilities(whole) == pytest.approx(expected, abs=2e-4)
    assert sum(probabilities(whole).values()) == pytest.approx(1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calibration=calibrations,
    source=st.sampled_from(SOURCES),
    least=st.floats(0, 1),
    member=st.sampled_from([0.0, 0.01, 0.1, 0.4, 1.0]),
    top_k=st.sampled_from([1, 3, None]),
)
def test_decisions_are_those_of_the_whole_distribution(
    shared: Shared, calibration: Calibration, source: str, least: float, member: float, top_k: int | None
) -> None:
    held = replace(calibration, coverage={0.9: member}, precision={0.8: least})
    found = ask(shared.predictor(dict.fromkeys(SOURCES, held)), top_k=top_k, source=source, precision=0.8, coverage=0.9)
    expected = shared.expected(source, held)
    best = max(expected.values())
    assert found.likely is not None
    assert found.likely[0] == found.ranked[0].behavior
    assert len(set(found.likely)) == len(found.likely)
    if abs(best - least) > 2e-4:
        assert found.suggest == (best >= least)
    for label, p in expected.items():
        if abs(p - member) > 2e-4 and abs(p - best) > 2e-4:
            assert (label in found.likely) == (p >= member)


class TestWhatIsAskedFor:
    @pytest.mark.parametrize("source", SOURCES)
    def test_calibrated_unless_raw_values_are_wanted(self, shared: Shared, source: str) -> None:
        predictor = shared.predictor(OWN)
        shown, raw = ask(predictor, source=source), ask(predictor, source=source, calibrated=False)
        assert probabilities(shown) == pytest.approx(shared.expected(source, OWN[source]), abs=2e-4)
        assert probabilities(raw) == pytest.approx(shared.expected(source, Calibration()), abs=2e-4)
        assert (shown.calibrated, raw.calibrated) == (True, False)
        assert (shown.suggest, shown.likely) == (None, None)
        plain = ask(shared.predictor(None), source=source)
        assert probabilities(plain) == pytest.approx(probabilities(raw), abs=2e-4)
        assert not plain.calibrated

    def test_masked_scoring_stays_raw(self, shared: Shared) -> None:
        calibrated, plain = (ask(shared.predictor(c), source="model", scoring="masked") for c in (OWN, None))
        assert not calibrated.calibrated
        assert probabilities(calibrated) == pytest.approx(probabilities(plain), abs=2e-4)
        assert ask(shared.predictor(OWN), source="habits", scoring="masked").calibrated
        with pytest.raises(EdgebError, match="measured under exact scoring"):
            ask(shared.predictor(OWN), source="model", scoring="masked", coverage=0.8)

    def test_a_session_asks_the_same(self, shared: Shared) -> None:
        predictor = shared.predictor(OWN)
        session = predictor.session()
        for event in EVENTS[-20:]:
            session.observe(event)
        found = session.predict(WHEN, PLACE, 2, options=PredictOptions(source="model", precision=0.5, coverage=0.8))
        plain = predictor.predict(
            EVENTS[-20:], WHEN, PLACE, 2, options=PredictOptions(source="model", precision=0.5, coverage=0.8)
        )
        assert (found.suggest, found.likely, found.calibrated) == (plain.suggest, plain.likely, True)
        assert not session.predict(WHEN, PLACE, options=PredictOptions(source="model", calibrated=False)).calibrated

    def test_levels(self, shared: Shared) -> None:
        predictor = shared.predictor(OWN)
        assert ask(predictor, source="model", precision=0.9).suggest is False, "it is never reached"
        assert set(ask(predictor, source="fused", top_k=1, coverage=0.95).likely or ()) == set(helpers.LABELS)
        with pytest.raises(EdgebError, match=r"not calibrated for a precision of 0\.7") as caught:
            ask(predictor, source="model", precision=0.7)
        assert caught.value.hint == "its levels: 0.5, 0.9"
        with pytest.raises(EdgebError, match=r"not calibrated for a coverage of 0\.95"):
            ask(predictor, source="habits", coverage=0.95)

    def test_impossible_requests(self, shared: Shared) -> None:
        with pytest.raises(EdgebError, match="the bundle is not calibrated"):
            ask(shared.predictor(None), precision=0.5)
        for wanted in ({"precision": 0.5}, {"coverage": 0.8}):
            with pytest.raises(EdgebError, match="on calibrated values"):
                ask(shared.predictor(OWN), calibrated=False, **wanted)
            with pytest.raises(EdgebError, match="over all candidates"):
                ask(shared.predictor(OWN), only=["Video"], **wanted)
            with pytest.raises(EdgebError, match="over all candidates"):
                ask(shared.predictor(OWN), exclude=["Video"], **wanted)

    def test_a_clear_decision_needs_no_more_than_the_rank(self, shared: Shared) -> None:
        one = ask(shared.predictor(OWN), source="fused", top_k=1)
        every = ask(shared.predictor(OWN), source="fused")
        sure = {**OWN, "fused": replace(OWN["fused"], precision={0.7: one.ranked[0].probability / 2})}
        shared.predictor(None).predict(EVENTS[:3], EVENTS[3].time, "AB", None)  # forget what was looked at
        told = ask(shared.predictor(sure), source="fused", top_k=1, precision=0.7)
        assert told.suggest
        assert told.unexpanded == pytest.approx(one.unexpanded, abs=1e-3)
        assert every.unexpanded == 0


class TestFiles:
    def test_it_comes_with_the_bundle(self, small_bundle: Path, tmp_path: Path) -> None:
        manifest = manifest_with(read_manifest(small_bundle), OWN)
        write_bundle(small_bundle, manifest, tmp_path / "m.gguf")
        assert read_manifest(tmp_path / "m.gguf").calibration == manifest.calibration
        with Predictor.load(tmp_path / "m.gguf", threads=1, prefix_cache=False) as predictor:
            assert ask(predictor, top_k=1).calibrated

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"fused": None}, r"manifest\.calibration\.fused is not an object"),
            (
                {"model": {**OWN["model"].to_dict(), "temperature": -1}},
                r"manifest\.calibration\.model: .*'temperature'",
            ),
            ({"model": {**OWN["model"].to_dict(), "bias": {}}}, r"manifest\.calibration\.model\.bias: field 'head'"),
            ({"habits": {**OWN["habits"].to_dict(), "coverage": {"0.8": 2}}}, r"manifest\.calibration\.habits: .*0\.8"),
            ({"habits": {**OWN["habits"].to_dict(), "precision": 1}}, r"manifest\.calibration\.habits\.precision"),
            ({"measured": None}, r"manifest\.calibration: field 'measured' is None, not an object"),
            ({"more": {}}, r"manifest\.calibration: unknown field 'more'"),
        ],
    )
    def test_damaged_ones_are_refused(
        self, change: dict[str, Any], message: str, small_bundle: Path, tmp_path: Path
    ) -> None:
        manifest = manifest_with(read_manifest(small_bundle), OWN)
        path = tmp_path / "bad.gguf"
        helpers.write_edited(small_bundle, manifest, path, lambda fields: fields["calibration"].update(change))
        with pytest.raises(EdgebError, match=message):
            Predictor.load(path, threads=1)

    def test_fusion_and_its_calibration_go_together(self, small_bundle: Path, tmp_path: Path) -> None:
        manifest = manifest_with(read_manifest(small_bundle), OWN)
        write_bundle(small_bundle, replace(manifest, habits=None), tmp_path / "bad.gguf")
        with pytest.raises(EdgebError, match=r"manifest\.calibration: unknown field 'fused'"):
            Predictor.load(tmp_path / "bad.gguf", threads=1)
        rest = {name: own for name, own in OWN.items() if name != "fused"}
        write_bundle(small_bundle, replace(manifest, calibration=CalibrationSet(rest)), tmp_path / "bad.gguf")
        with pytest.raises(EdgebError, match=r"manifest\.calibration: field 'fused' is missing"):
            Predictor.load(tmp_path / "bad.gguf", threads=1)
