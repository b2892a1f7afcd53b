"""A sequence model behind `Predictor`: what every backend owes, sessions, proofs, the dial."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.sequence import SequenceBackend
from edge_behavior.runtime.prediction import PredictOptions
from edge_behavior.runtime.predictor import Predictor
from tests import helpers, sequence_files
from tests.unit.runtime import lives

SIZE, LENGTH = len(helpers.LABELS), 6


@pytest.fixture(scope="module", params=[(n, c) for n in sequence_files.NAMES for c in (True, False)])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, context = request.param
    model = sequence_files.described(name, config=SequenceConfig(hidden=16, heads=2, context=context))
    return sequence_files.bundle(model, sequence_files.network(model), tmp_path_factory.mktemp("b") / "s.gguf")


@pytest.fixture(scope="module")
def predictor(path: Path) -> Predictor:
    return Predictor.load(path)


def test_the_contract(path: Path) -> None:
    backend = SequenceBackend(path)
    assert backend.capacity == sequence_files.context_length(
        sequence_files.described(config=SequenceConfig(hidden=16, heads=2, context=backend.n_vocab > SIZE + 1))
    )
    row, count = backend.prefill([SIZE, 1, 2])
    assert (row.shape, str(row.dtype), count) == ((backend.n_vocab,), "float32", 3)
    assert backend.held == [SIZE, 1, 2]
    for bad in ([], [SIZE] * (backend.capacity + 1), [SIZE, *([1] * (LENGTH + 1))]):
        with pytest.raises(EdgebError, match="the prompt has"):
            backend.prefill(bad)
    assert backend.held == [SIZE, 1, 2]
    assert backend.decode_seconds > 0
    assert backend.save_state() == b""
    assert not backend.load_state([1], b"x")
    assert backend.held == []
    # Behind a label stands what would follow it.
    trie = lives.TRIE
    backend.prefill([SIZE, 1])
    rows, count = backend.branch(trie, [1])
    np.testing.assert_array_equal(rows[0], backend.prefill([SIZE, 1, int(trie.tokens[1])])[0])
    assert count == 3
    lives.refuses_after_close(backend)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_child_is_refused(path: Path) -> None:
    backend = SequenceBackend(path)
    lives.refused_in_fork(backend)
    backend.close()


def test_no_llama_is_needed(path: Path) -> None:
    with Predictor.load(path, prefix_cache=False) as found:
        assert found.predict([], datetime(2024, 3, 18, 9), "DK").tokens_evaluated == 1


Drawn = tuple[int, str, str]
event = st.tuples(st.integers(0, 300), st.sampled_from((*sequence_files.PLACES, "AB")), st.sampled_from(helpers.LABELS))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.tuples(event, st.sampled_from(["", "ask", "prepare", "save"])), min_size=1, max_size=20))
def test_a_session_answers_as_one_shot_of_the_last_events(
    predictor: Predictor, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Drawn, str]]
) -> None:
    session, history, when = predictor.session(rebase_every=5), list[BehaviorEvent](), datetime(2024, 3, 18, 7)
    file = tmp_path_factory.mktemp("session") / "user.session"
    for (minutes, place, label), then in steps:
        when += timedelta(minutes=minutes)
        history.append(BehaviorEvent(place, when, label))
        session.observe(history[-1])
        if then == "prepare":
            assert session.prepare() <= LENGTH + 1
        elif then == "save":
            session.save(file)
            session = predictor.restore(file)
        elif then == "ask":
            asked = when + timedelta(minutes=11)
            found = session.log_probs(asked, "home")
            np.testing.assert_array_equal(found, predictor.log_probs(history, asked, "home"))
            np.testing.assert_array_equal(found, predictor.log_probs(history[-LENGTH:], asked, "home"))
            assert len(session.events) >= min(len(history), LENGTH)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(event, max_size=8), data=st.data())
def test_ranks_are_those_of_all_candidates(predictor: Predictor, drawn: list[Drawn], data: st.DataObject) -> None:
    when, history = datetime(2024, 3, 18, 7), list[BehaviorEvent]()
    for minutes, place, label in drawn:
        when += timedelta(minutes=minutes)
        history.append(BehaviorEvent(place, when, label))
    scoring, tau = data.draw(st.sampled_from(["exact", "masked"])), data.draw(st.sampled_from([0.0, 0.5, 2.0]))
    top_k = data.draw(st.integers(1, SIZE))
    some = data.draw(st.one_of(st.none(), st.sets(st.sampled_from(helpers.LABELS), min_size=1)))
    log_p = predictor.log_probs(history, when, "DK", scoring)
    assert np.exp(log_p).sum() == pytest.approx(1)
    counts = np.array(predictor.manifest.candidates.counts)
    share = 0.99 * counts / counts.sum() + 0.01 / SIZE
    scores = log_p - tau * np.log(share)
    kept = [i for i, label in enumerate(helpers.LABELS) if some is None or label in some]
    probs = np.exp(scores[kept] - np.logaddexp.reduce(scores[kept]))
    order = np.argsort(-probs, kind="stable")[:top_k]
    options = PredictOptions(scoring, only=None if some is None else sorted(some), balance=tau)
    found = predictor.predict(history, when, "DK", top_k, options=options)
    assert [r.behavior for r in found.ranked] == [helpers.LABELS[kept[i]] for i in order]
    np.testing.assert_allclose([r.probability for r in found.ranked], probs[order], atol=1e-6)
    assert found.unexpanded == pytest.approx(0, abs=1e-12)
    assert found.tokens_evaluated == min(len(history), LENGTH) + 1
