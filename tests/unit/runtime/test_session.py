"""A session pays for what is new, says what a plain prompt says, survives a restart and refuses what is not its own."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.fusion import GroupWeights, Mixture
from edge_behavior.core.habits import HabitCounter, HabitsConfig
from edge_behavior.core.prompts import LAYOUTS, PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.bundles import stretch_log_probs
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.prediction import Prediction
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from edge_behavior.runtime.session import Session
from edge_behavior.runtime.state_file import read_state, write_state
from tests import helpers

LENGTH = PromptLayout().history_length


@pytest.fixture(scope="module")
def predictor(any_bundle: Path) -> Iterator[Predictor]:
    with Predictor.load(any_bundle, threads=1, exact_math=True, prefix_cache=False) as opened:
        yield opened


def probabilities(prediction: Prediction) -> dict[str, float]:
    return {r.behavior: r.probability for r in prediction.ranked}


def fresh(path: Path, history: list[BehaviorEvent], event: BehaviorEvent, source: str = "model") -> dict[str, float]:
    with Predictor.load(path, threads=1, exact_math=True, prefix_cache=False, verify=False) as opened:
        return probabilities(
            opened.predict(history, event.time, event.place, None, options=PredictOptions(source=source))
        )


def feed(session: Session, events: list[BehaviorEvent]) -> None:
    for event in events:
        session.observe(event)


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


@pytest.mark.parametrize("count", [0, 1, 7, 33, 41])
def test_save_and_restore(count: int, any_bundle: Path, tmp_path: Path) -> None:
    events = helpers.diary(count + 4)
    path = tmp_path / "user.session"
    with Predictor.load(any_bundle, threads=1, exact_math=True, prefix_cache=tmp_path / "prefix") as opened:
        session = opened.session()
        for event in events[:count]:
            session.predict(event.time, event.place, 1)
            session.observe(event)
        session.save(path)
        expected = []
        for event in events[count:]:
            expected.append(session.predict(event.time, event.place, None, options=PredictOptions(source="model")))
            expected.append(session.predict(event.time, event.place, None, options=PredictOptions(source="habits")))
            session.observe(event)
    with Predictor.load(any_bundle, threads=1, exact_math=True, prefix_cache=tmp_path / "prefix") as opened:
        session = opened.restore(path)
        for i, event in enumerate(events[count:]):
            by_model = session.predict(event.time, event.place, None, options=PredictOptions(source="model"))
            by_habits = session.predict(event.time, event.place, None, options=PredictOptions(source="habits"))
            assert probabilities(by_model) == pytest.approx(probabilities(expected[2 * i]), abs=2e-4)
            assert probabilities(by_habits) == pytest.approx(probabilities(expected[2 * i + 1]))
            assert by_model.tokens_evaluated <= expected[0].tokens_evaluated + 12, "the window is evaluated again"
            session.observe(event)


def test_a_session_file_of_something_else(small_bundle: Path, small_backbone: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(small_bundle, threads=1, exact_math=True, prefix_cache=False)
    path = tmp_path / "user.session"
    events = helpers.diary(6)
    session = predictor.session()
    feed(session, events)
    before = probabilities(session.predict(events[-1].time, "DK", None))
    session.save(path)
    good = path.read_bytes()

    fewer = tmp_path / "fewer.gguf"
    export_gguf(
        ExportSource(small_backbone, None, CandidateSet.of(helpers.LABELS[:5]), PromptLayout()),
        fewer,
        helpers.profile("f32"),
    )
    with Predictor.load(fewer, threads=1) as other, pytest.raises(EdgebError, match="another candidate list"):
        other.restore(path)
    q8 = tmp_path / "q8.gguf"
    export_gguf(
        ExportSource(small_backbone, None, CandidateSet.of(helpers.LABELS), PromptLayout()), q8, helpers.profile("q8")
    )
    with Predictor.load(q8, threads=1) as other, pytest.raises(EdgebError, match="another model"):
        other.restore(path)

    rng = np.random.default_rng(0)
    for at in [0, 7, 9, 30, len(good) - 1, *rng.integers(0, len(good), 20)]:
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(EdgebError, match="user"):
            predictor.restore(path)
    for size in (0, 5, 20, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(EdgebError, match="user"):
            predictor.restore(path)
    with pytest.raises(EdgebError, match="cannot read"):
        predictor.restore(tmp_path / "nothing")
    assert probabilities(session.predict(events[-1].time, "DK", None)) == pytest.approx(before, abs=2e-4)
    path.write_bytes(good)
    assert predictor.restore(path).events == session.events


ODD = [None, True, -1, 2**70, 1.5, "x", [], {}, [[]], [1, True], [["x", "y", "z"]], [["2024-01-01", "DK"]], [[1, 2, 3]]]


@pytest.mark.parametrize("field", ["anchor_every", "events", "habits", "held", "engine", "kind", "schema", "model"])
def test_a_field_of_another_kind(field: str, predictor: Predictor, tmp_path: Path) -> None:
    """Whole by its hash: what another program wrote. Refused, or it says what the session said."""
    events = helpers.diary(6)
    session = predictor.session()
    feed(session, events)
    wanted = probabilities(session.predict(events[-1].time, "DK", None))
    session.save(tmp_path / "good.session")
    header, state = read_state(tmp_path / "good.session")
    for value in ODD:
        write_state(tmp_path / "odd.session", {**header, field: value}, state)
        # What a session may have: a window of no events, a cache that is not used, a window that is long.
        if (field, value) in [("events", []), ("held", []), ("anchor_every", 2**70)] or field == "engine":
            restored = predictor.restore(tmp_path / "odd.session")
            if restored.events:
                assert probabilities(restored.predict(events[-1].time, "DK", None)) == pytest.approx(wanted, abs=2e-4)
        else:
            with pytest.raises(EdgebError):
                predictor.restore(tmp_path / "odd.session")
    assert probabilities(session.predict(events[-1].time, "DK", None)) == pytest.approx(wanted, abs=2e-4)


def test_saving_keeps_the_old_file_when_it_cannot(predictor: Predictor, tmp_path: Path) -> None:
    session = predictor.session()
    with pytest.raises(EdgebError, match="cannot write"):
        session.save(tmp_path / "no" / "such" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_saving_goes_through_a_link_and_spares_what_is_no_file(predictor: Predictor, tmp_path: Path) -> None:
    session = predictor.session()
    (tmp_path / "disk").mkdir()
    session.save(tmp_path / "disk" / "state")
    (tmp_path / "link").symlink_to("disk/state")
    session.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    for place, message in (
        (tmp_path / "pipe", "is a pipe"), (tmp_path / "disk", "is a folder"), (Path("/dev/null"), "is a device"),
    ):  # fmt: skip
        with pytest.raises(EdgebError, match=message):
            session.save(place)
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["disk", "link", "pipe", "state"]


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
        single = opened.predict(events[-LENGTH:], when, "DK", 1)
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


def test_threads_share_a_predictor(any_bundle: Path) -> None:
    users = [helpers.diary(25, seed) for seed in range(4)]
    with Predictor.load(any_bundle, threads=1, exact_math=True, prefix_cache=False) as opened:
        said: dict[int, list[str]] = {}

        def live(user: int) -> None:
            session = opened.session()
            said[user] = []
            for event in users[user]:
                said[user].append(session.predict(event.time, event.place, 1).ranked[0].behavior)
                session.observe(event)

        workers = [threading.Thread(target=live, args=(user,)) for user in range(len(users))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        together = dict(said)
        for user in range(len(users)):
            live(user)
    assert said == together


def live_long(bundle: Path, calls: int) -> tuple[int, int]:
    """Resident memory after a tenth of the calls, and after all."""
    process = psutil.Process()
    events = helpers.diary(200)
    span = events[-1].time - events[0].time + timedelta(hours=1)
    with Predictor.load(bundle, threads=1, prefix_cache=False) as opened:
        session = opened.session()
        early = 0
        for call in range(calls // 2):
            event = events[call % len(events)]
            event = replace(event, time=event.time + span * (call // len(events)))
            session.predict(event.time, event.place, 1)
            session.observe(event)
            if call == calls // 20:
                early = process.memory_info().rss
        return early, process.memory_info().rss


def test_no_leak(native_bundle: Path) -> None:
    early, late = live_long(native_bundle, 1_000)
    assert late - early < 4 << 20


@pytest.mark.slow
def test_no_leak_in_100_000_calls(native_bundle: Path) -> None:
    early, late = live_long(native_bundle, 100_000)
    assert late - early < 8 << 20


def test_opening_and_closing_gives_memory_back(native_bundle: Path) -> None:
    def open_and_close(times: int) -> int:
        for _ in range(times):
            with Predictor.load(native_bundle, threads=1, prefix_cache=False) as opened:
                opened.predict([], helpers.diary(1)[0].time, "DK", 1)
        return psutil.Process().memory_info().rss

    before = open_and_close(5)
    assert open_and_close(20) - before < 16 << 20
