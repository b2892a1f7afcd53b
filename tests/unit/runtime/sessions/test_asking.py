"""Some candidates, the best few, one source or the mixture: what a session or a predictor is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.fusion import GroupWeights, Mixture
from edge_behavior.core.habits import HabitCounter, HabitsConfig
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests import helpers
from tests.unit.runtime.sessions.conftest import probabilities


class TestWhatIsAskedFor:
    def test_the_best_are_proven_at_less_cost(self, predictor: Predictor) -> None:
        events = helpers.diary(20)
        every = predictor.predict(events[:-1], events[-1].time, "DK", None)
        first = predictor.predict(events[:-1], events[-1].time, "DK", 1)
        assert first.ranked[0].behavior == every.ranked[0].behavior
        assert first.ranked[0].probability <= every.ranked[0].probability + 1e-4
        assert every.ranked[0].probability <= first.ranked[0].probability / (1 - first.unexpanded) + 1e-4
        exhaustive = predictor.predict(events[:-1], events[-1].time, "DK", 1, options=PredictOptions(exhaustive=True))
        assert exhaustive.unexpanded == 0
        assert exhaustive.ranked[0].probability == pytest.approx(every.ranked[0].probability, abs=2e-4)

    @pytest.mark.parametrize("source", ["model", "habits"])
    @pytest.mark.parametrize("scoring", ["exact", "masked"])
    def test_only_and_exclude(self, predictor: Predictor, source: str, scoring: str) -> None:
        events = helpers.diary(9)
        when = events[-1].time
        some = helpers.LABELS[2:6]
        every = probabilities(predictor.predict(events, when, "DK", None, options=PredictOptions(source=source)))
        only = predictor.predict(
            events, when, "DK", None, options=PredictOptions(scoring=scoring, source=source, only=some)
        )
        rest = [label for label in helpers.LABELS if label not in some]
        without = predictor.predict(
            events, when, "DK", None, options=PredictOptions(scoring=scoring, source=source, exclude=rest)
        )
        assert set(probabilities(only)) == set(some)
        assert probabilities(only) == pytest.approx(probabilities(without), abs=2e-4)
        assert sum(probabilities(only).values()) == pytest.approx(1)
        if scoring == "exact":
            total = sum(every[label] for label in some)
            assert probabilities(only) == pytest.approx({label: every[label] / total for label in some}, abs=2e-4)
        one = predictor.predict(events, when, "DK", None, options=PredictOptions(source=source, only=["Video"]))
        assert [(r.behavior, r.probability) for r in one.ranked] == [("Video", pytest.approx(1))]

    def test_bad_requests(self, predictor: Predictor) -> None:
        event = helpers.diary(1)[0]
        with pytest.raises(EdgebError, match="only: 'Vidio' is not in the candidate set"):
            predictor.predict([], event.time, "DK", options=PredictOptions(only=["Vidio"]))
        with pytest.raises(EdgebError, match="no candidate is left"):
            predictor.predict([], event.time, "DK", options=PredictOptions(exclude=helpers.LABELS))
        with pytest.raises(EdgebError, match="unknown source"):
            predictor.predict([], event.time, "DK", options=PredictOptions(source="both"))
        with pytest.raises(EdgebError, match="no weights to fuse"):
            predictor.predict([], event.time, "DK", options=PredictOptions(source="fused"))


WEIGHTS = {
    "head": GroupWeights(0.7, 0.5, 0.1),
    "medium": GroupWeights(1.3, 0.4, 0.0),
    "tail": GroupWeights(0.9, 0.0, -0.2),
}


def test_fused_by_default_where_the_manifest_says_so(small_bundle: Path, tmp_path: Path) -> None:
    habits = Mixture(HabitsConfig(), WEIGHTS, "fused")
    counts = tuple(range(len(helpers.LABELS), 0, -1))
    manifest = read_manifest(small_bundle)
    manifest = replace(manifest, habits=habits, candidates=CandidateSet(manifest.candidates.labels, counts))
    path = tmp_path / "fused.gguf"
    write_bundle(small_bundle, manifest, path)
    events = helpers.diary(50)
    when = events[-1].time
    with Predictor.load(path, threads=1, exact_math=True, prefix_cache=False) as opened:
        session = opened.session()
        counter = HabitCounter(counts, HabitsConfig())
        for event in events:
            session.observe(event)
            counter.observe(helpers.LABELS.index(event.behavior), event.time, event.place)
        every = session.predict(when, "DK", None)
        best = session.predict(when, "DK", 3)
        model = opened._ranker.log_probs(session._ids(when, "DK"), "exact")
        single = opened.predict(events[-manifest.layout.history_length :], when, "DK", 1)
    rows = [WEIGHTS[group] for group in manifest.candidates.groups()]
    by_habits = counter.log_probs(when, "DK")
    scores = np.array([w.model * model[i] + w.habits * by_habits[i] + w.bias for i, w in enumerate(rows)])
    expected = np.exp(scores - np.logaddexp.reduce(scores))
    assert every.source == best.source == single.source == "fused"
    found = [probabilities(every)[label] for label in helpers.LABELS]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert [r.behavior for r in best.ranked] == [r.behavior for r in every.ranked[:3]]
    assert best.tokens_evaluated <= every.tokens_evaluated


@pytest.mark.parametrize("field", ["default", "fusion", "config"])
def test_damaged_habits_are_refused(field: str, small_bundle: Path, tmp_path: Path) -> None:
    manifest = replace(read_manifest(small_bundle), habits=Mixture(HabitsConfig(), WEIGHTS, "fused"))
    path = tmp_path / "bad.gguf"
    helpers.write_edited(small_bundle, manifest, path, lambda fields: fields["habits"].update({field: "x"}))
    with pytest.raises(EdgebError, match=r"manifest\.habits"):
        Predictor.load(path, threads=1)


def test_a_label_is_taken_however_it_is_written(predictor: Predictor) -> None:
    label = next(label for label in helpers.LABELS if " " in label)
    odd = "\u200e" + label.replace(" ", "\u00a0 ")
    event = helpers.diary(1)[0]
    session = predictor.session()
    session.observe(replace(event, behavior=odd))
    assert session.events == (replace(event, behavior=label),)
    whole = [
        predictor.predict(
            [replace(event, behavior=b)], event.time, "DK", None, options=PredictOptions(only=[label, "Video"])
        )
        for b in (odd, label)
    ]
    assert probabilities(whole[0]) == pytest.approx(probabilities(whole[1]), abs=1e-6)
    assert session.predict(event.time, "DK", options=PredictOptions(only=[odd])).ranked[0].behavior == label
    assert all(
        r.behavior != label
        for r in session.predict(event.time, "DK", None, options=PredictOptions(exclude=[odd])).ranked
    )
