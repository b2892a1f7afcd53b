"""A session pays for what is new, says what a plain prompt says, survives a restart and refuses what is not its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import LAYOUTS, PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.bundles import stretch_log_probs
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests import helpers
from tests.unit.runtime.sessions.conftest import feed, fresh, probabilities

LENGTH = PromptLayout().history_length


@pytest.mark.parametrize("layout", LAYOUTS)
def test_until_the_window_is_full_it_is_the_plain_prompt(layout: str, small_backbone: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    export_gguf(
        ExportSource(small_backbone, None, CandidateSet.of(helpers.LABELS), PromptLayout(name=layout)),
        path,
        helpers.profile("f32"),
    )
    events = helpers.diary(8)
    with Predictor.load(path, threads=1, exact_math=True, prefix_cache=False) as opened:
        session = opened.session()
        for i, event in enumerate(events):
            found = probabilities(session.predict(event.time, event.place, None))
            assert found == pytest.approx(fresh(path, events[:i], event), abs=2e-4)
            session.observe(event)


def test_a_prediction_pays_for_the_last_line_and_the_question(predictor: Predictor) -> None:
    encoder = predictor._ranker.encoder
    events = helpers.diary(12)
    session = predictor.session()
    feed(session, events[:10])
    session.predict(events[10].time, events[10].place, 1)
    session.observe(events[10])
    found = session.predict(events[11].time, events[11].place, 1, options=PredictOptions(scoring="masked"))
    label = len(encoder.line_ids(events[10])) - len(encoder.frame_ids(events[10].time, events[10].place)[1])
    question = len(encoder.frame_ids(events[11].time, events[11].place)[1])
    assert found.tokens_evaluated <= label + question + len(encoder.trie.choices)
    again = session.predict(events[11].time, events[11].place, 1, options=PredictOptions(scoring="masked"))
    assert again.tokens_evaluated < found.tokens_evaluated


def test_a_rebased_window_is_a_longer_prompt_and_then_the_last_events(predictor: Predictor, any_bundle: Path) -> None:
    events = helpers.diary(40)
    session = predictor.session(rebase_every=5)
    sizes = []
    for event in events:
        session.observe(event)
        sizes.append(len(session.events))
    assert max(sizes) == LENGTH + 5
    assert min(sizes[LENGTH:]) == LENGTH
    assert session.events == tuple(events[-len(session.events) :])
    after = BehaviorEvent("DK", events[-1].time, "Video")
    # Right after anchoring it is the plain prompt again.
    session = predictor.session(rebase_every=5)
    feed(session, events[: LENGTH + 6])
    assert len(session.events) == LENGTH
    found = probabilities(session.predict(after.time, after.place, None))
    assert found == pytest.approx(fresh(any_bundle, events[: LENGTH + 6], after), abs=2e-4)


def test_consecutive_targets_are_scored_as_a_session_sees_them(predictor: Predictor, any_bundle: Path) -> None:
    table = helpers.event_table([["Video", "Bar", "Cafe Noir"] * 12])
    targets = np.arange(LENGTH, LENGTH + 4)
    found = stretch_log_probs(predictor, table, targets)
    assert found.shape == (4, len(helpers.LABELS))
    for row, target in zip(found, targets.tolist(), strict=True):
        event = table.event(target)
        with Predictor.load(any_bundle, threads=1, exact_math=True, prefix_cache=False, verify=False) as opened:
            session = opened.session()
            feed(session, table.between(0, target))
            assert len(session.events) == target
            np.testing.assert_allclose(row, session.log_probs(event.time, event.place), atol=1e-4)
            if target == LENGTH:
                history = table.history(target, LENGTH)
                np.testing.assert_allclose(row, opened.log_probs(history, event.time, event.place), atol=1e-4)
    with pytest.raises(EdgebError, match="unknown scoring 'exat'"):
        predictor.session().log_probs(table.event(0).time, "home", "exat")


def test_prepared_predictions_pay_for_the_question_alone(predictor: Predictor) -> None:
    events = helpers.diary(50)
    prepared, plain = predictor.session(), []
    session = predictor.session()
    for event in events:
        plain.append(session.predict(event.time, event.place, None))
        session.observe(event)
    question = max(len(predictor._ranker.encoder.frame_ids(e.time, e.place)[1]) for e in events)
    for event, expected in zip(events, plain, strict=True):
        prepared.prepare()
        assert prepared.prepare() == 0
        found = prepared.predict(event.time, event.place, None)
        assert probabilities(found) == pytest.approx(probabilities(expected), abs=2e-4)
        assert found.tokens_evaluated <= question + len(predictor._ranker.encoder.trie.evaluated)
        prepared.observe(event)


def test_sessions_on_one_predictor_do_not_mix(predictor: Predictor, any_bundle: Path) -> None:
    first, second = predictor.session(), predictor.session()
    a, b = helpers.diary(30, 1), helpers.diary(30, 2)
    for i in range(20):
        first.observe(a[i])
        second.observe(b[i])
        second.predict(b[i + 1].time, "DK", 1)
    found = probabilities(first.predict(a[20].time, "DK", None))
    assert found == pytest.approx(fresh(any_bundle, a[:20], replace(a[20], place="DK")), abs=2e-4)


def test_a_clock_that_goes_back_is_no_fault(predictor: Predictor) -> None:
    """Daylight saving time ends, or the user flies west: what counts is what came after what."""
    events = helpers.diary(5)
    events[3] = replace(events[3], time=events[2].time - timedelta(minutes=55))
    events[4] = replace(events[4], time=events[3].time - timedelta(hours=3))
    session = predictor.session()
    feed(session, events)
    assert session.events == tuple(events)
    when = events[4].time - timedelta(hours=26)
    found = probabilities(session.predict(when, "DK", None))
    assert found == pytest.approx(probabilities(predictor.predict(events, when, "DK", None)), abs=2e-4)
    with pytest.raises(EdgebError, match="27 h 0 min before the last event"):
        session.predict(when - timedelta(hours=1), "DK")


def test_bad_events_change_nothing(predictor: Predictor) -> None:
    events = helpers.diary(5)
    session = predictor.session()
    feed(session, events)
    before = probabilities(session.predict(events[-1].time, "DK", None))
    with pytest.raises(EdgebError, match="'Vidio' is not in the candidate set"):
        session.observe(BehaviorEvent("DK", events[-1].time, "Vidio"))
    with pytest.raises(EdgebError, match="before the last event"):
        session.observe(BehaviorEvent("DK", events[-1].time - timedelta(hours=27), "Video"))
    with pytest.raises(EdgebError, match="before the last event"):
        session.predict(events[-1].time - timedelta(days=2), "DK")
    with pytest.raises(EdgebError, match="rebase_every is 0"):
        predictor.session(rebase_every=0)
    assert session.events == tuple(events)
    assert session.habits.events == 5
    assert probabilities(session.predict(events[-1].time, "DK", None)) == pytest.approx(before, abs=2e-4)


def test_places_are_cleaned_as_they_come(predictor: Predictor) -> None:
    event = helpers.diary(1)[0]
    session = predictor.session()
    session.observe(replace(event, place="home), Video)\n(x"))
    assert session.events[0].place == "home Video x"


def test_a_window_that_does_not_fit_is_rebased_early(small_tokens: object, tmp_path: Path) -> None:
    model = helpers.model(small_tokens)
    model.config.max_position_embeddings = 512
    folder = helpers.save(model, small_tokens, tmp_path / "short")
    path = tmp_path / "m.gguf"
    layout = PromptLayout(history_length=4)
    export_gguf(ExportSource(folder, None, CandidateSet.of(helpers.LABELS), layout), path, helpers.profile("f32"))
    with Predictor.load(path, threads=1) as opened:
        session = opened.session(rebase_every=200)
        for event in helpers.diary(80):
            session.predict(event.time, event.place, 1)
            session.observe(event)
        assert 4 <= len(session.events) < 80
