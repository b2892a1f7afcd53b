"""The assistant behind the page: rules, dismissals, time, and that what it says is what the predictor says."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from edge_behavior.core.balance import FittedBalance
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.license import License
from edge_behavior.demo import assistant as module
from edge_behavior.demo.assistant import Ask, Assistant
from edge_behavior.demo.views import EventView, Levels, PrecisionLevel, PredictionView
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.prediction import Prediction, RankedBehavior
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests.demo_bundle import LABELS, LENGTH

START = datetime(2024, 3, 18, 8)
HISTORY = [
    BehaviorEvent("home", START, LABELS[0]),
    BehaviorEvent("work", START + timedelta(hours=1), LABELS[3]),
    BehaviorEvent("home", START + timedelta(hours=2), LABELS[0]),
]
NOW = START + timedelta(hours=3)


@pytest.fixture
def assistant(predictor: Predictor) -> Assistant:
    return Assistant(predictor, "tiny.gguf", HISTORY)


def ask(**fields: Any) -> Ask:
    return replace(Ask(NOW, "home"), **fields)


def labels(prediction: PredictionView) -> list[str]:
    return [item.behavior for item in prediction.ranked]


def suggested(prediction: PredictionView) -> list[str]:
    return [item.behavior for item in prediction.ranked if item.suggested]


class TestBundle:
    def test_says_what_can_be_asked(self, assistant: Assistant) -> None:
        said = assistant.bundle()
        assert list(said.labels) == LABELS
        assert (said.name, said.source, said.history_length) == ("tiny.gguf", "fused", LENGTH)
        levels = Levels(0.0, [PrecisionLevel(0.5, True), PrecisionLevel(0.9, False)], [0.8, 0.9])
        assert said.sources == {key: [levels] for key in ("model", "habits", "fused")}

    def test_offers_the_balance_that_export_chose(self, predictor: Predictor) -> None:
        manifest = predictor.manifest
        fitted = FittedBalance({"model": 0.4, "habits": 0.0, "fused": 0.7}, manifest.calibration)
        assistant = Assistant(Predictor(replace(manifest, balance=fitted), predictor._ranker.backend), "tiny", HISTORY)
        offered = assistant.bundle().sources
        assert {source: [one.balance for one in found] for source, found in offered.items()} == {
            "model": [0.0, 0.4], "habits": [0.0], "fused": [0.0, 0.7],
        }  # fmt: skip
        assert offered["fused"][1] == replace(offered["fused"][0], balance=0.7)
        said = assistant.predict(ask(balance=0.7, coverage=0.8, exhaustive=True))
        assert (said.balance, said.calibrated) == (0.7, True)
        options = PredictOptions(exhaustive=True, balance="fitted")
        with_fitted = assistant._session.predict(NOW, "home", top_k=5, options=options)
        assert [(r.behavior, r.probability) for r in said.ranked] == [
            (r.behavior, pytest.approx(r.probability)) for r in with_fitted.ranked
        ]

    def test_without_habits_and_calibration(self, predictor: Predictor) -> None:
        plain = replace(predictor.manifest, habits=None, calibration=None)
        said = Assistant(Predictor(plain, predictor._ranker.backend), "plain", ()).bundle()
        assert said.sources == {key: [Levels(0.0, (), ())] for key in ("model", "habits")}
        assert said.source == "model"

    def test_names_the_backbone_s_license(self, predictor: Predictor) -> None:
        stated = replace(predictor.manifest.base_model, license=License.stated("gemma"))
        manifest = replace(predictor.manifest, base_model=stated)
        said = Assistant(Predictor(manifest, predictor._ranker.backend), "plain", ()).bundle()
        assert said.license[0] == "gemma (Gemma Terms of Use)"
        assert said.license[-1].startswith("Gemma is provided under and subject to the Gemma Terms of Use")


class TestPredict:
    def test_is_the_predictor_s_own_answer(self, assistant: Assistant, predictor: Predictor) -> None:
        expected = predictor.predict(HISTORY, NOW, "home", 5, options=PredictOptions(exhaustive=True, coverage=0.8))
        said = assistant.predict(ask(exhaustive=True, coverage=0.8))
        assert labels(said) == [r.behavior for r in expected.ranked]
        assert [item.probability for item in said.ranked] == pytest.approx(
            [r.probability for r in expected.ranked], abs=1e-6
        )
        assert said.likely == expected.likely
        assert (said.source, said.calibrated, said.window) == ("fused", True, 3)
        assert said.tokens_evaluated > 0

    def test_events_place_and_time_change_it(self, assistant: Assistant) -> None:
        before = assistant.predict(ask(source="habits"))
        assert before.ranked != assistant.predict(ask(source="habits", place="work")).ranked
        assert before.ranked != assistant.predict(ask(source="habits", when=NOW + timedelta(hours=9))).ranked
        for i in range(4):
            assistant.add(LABELS[5], "home", NOW + timedelta(minutes=i), accepted=False)
        after = assistant.predict(ask(source="habits", when=NOW + timedelta(minutes=9)))
        assert labels(after).index(LABELS[5]) < (labels(before) + LABELS).index(LABELS[5])

    @pytest.mark.parametrize("source", ["model", "habits", "fused"])
    @pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 0.3, 0.9, 1.0])
    def test_the_threshold_holds_for_the_exact_probabilities(
        self, assistant: Assistant, predictor: Predictor, source: str, threshold: float
    ) -> None:
        exact = predictor.predict(HISTORY, NOW, "home", 5, options=PredictOptions(source=source, exhaustive=True))
        said = assistant.predict(ask(threshold=threshold, source=source))
        assert suggested(said) == [r.behavior for r in exact.ranked if r.probability >= threshold]

    @pytest.mark.parametrize(
        ("threshold", "asked", "expected"),
        [
            (0.28, [False], ["Video"]),
            # The first candidate has .28 at least and .28 / (1 - .2) = .35 at most: only an exhaustive answer tells.
            (0.3, [False, True], ["Video"]),
            (0.345, [False, True], []),
            (0.36, [False], []),
        ],
    )
    def test_a_threshold_between_the_bounds_is_looked_into(
        self,
        assistant: Assistant,
        monkeypatch: pytest.MonkeyPatch,
        threshold: float,
        asked: list[bool],
        expected: list[str],
    ) -> None:
        calls: list[bool] = []

        def answer(_: Ask, top_k: int, exhaustive: bool) -> Prediction:
            calls.append(exhaustive)
            ranked = (RankedBehavior("Video", 0.34 if exhaustive else 0.28), RankedBehavior("Video Call", 0.01))
            return Prediction(ranked, "exact", "model", 10, 2.0, 1.0, 0.0 if exhaustive else 0.2)

        monkeypatch.setattr(assistant, "_predict", answer)
        said = assistant.predict(ask(threshold=threshold))
        assert (calls, suggested(said)) == (asked, expected)
        assert (said.tokens_evaluated, said.latency_ms) == (10 * len(asked), 2.0 * len(asked))

    def test_precision_speaks_of_the_first_only(self, assistant: Assistant) -> None:
        said = assistant.predict(ask(precision=0.5))
        assert suggested(said) == labels(said)[:1]
        assert suggested(assistant.predict(ask(precision=0.9))) == []

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"precision": 0.6}, "0.6"),
            ({"coverage": 0.5}, "0.5"),
            ({"source": "stars"}, "stars"),
            ({"when": START - timedelta(days=2)}, "before the last event"),
        ],
    )
    def test_refuses(self, assistant: Assistant, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(EdgebError, match=message):
            assistant.predict(ask(**fields))

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), float("inf")])
    def test_a_threshold_is_a_probability(self, threshold: float) -> None:
        with pytest.raises(EdgebError, match="threshold"):
            ask(threshold=threshold)


class TestDismiss:
    def test_the_others_move_up_with_their_probabilities(self, assistant: Assistant) -> None:
        before = assistant.predict(ask(exhaustive=True))
        assistant.dismiss(labels(before)[1])
        after = assistant.predict(ask(exhaustive=True))
        assert len(after.ranked) == 5
        kept = [item for item in before.ranked if item.behavior != labels(before)[1]]
        assert labels(after)[:4] == [item.behavior for item in kept]
        assert [item.probability for item in after.ranked[:4]] == pytest.approx(
            [item.probability for item in kept], abs=1e-6
        )
        assert assistant.state().dismissed == [labels(before)[1]]

    def test_twice_is_once_and_it_can_be_taken_back(self, assistant: Assistant) -> None:
        assistant.dismiss(LABELS[0])
        assistant.dismiss(LABELS[0])
        assert assistant.state().dismissed == [LABELS[0]]
        assistant.restore()
        assert assistant.state().dismissed == []

    def test_the_next_event_ends_it(self, assistant: Assistant) -> None:
        assistant.dismiss(LABELS[1])
        assistant.add(LABELS[0], "home", NOW, accepted=True)
        assert assistant.state().dismissed == []

    def test_the_second_is_not_suggested_in_place_of_a_dismissed_first(self, assistant: Assistant) -> None:
        """Precision was measured for the first candidate alone."""
        assistant.dismiss(labels(assistant.predict(ask()))[0])
        assert suggested(assistant.predict(ask(precision=0.5))) == []

    def test_all(self, assistant: Assistant) -> None:
        for label in LABELS:
            assistant.dismiss(label)
        assert assistant.predict(ask()).ranked == []

    def test_refuses_what_is_no_candidate(self, assistant: Assistant) -> None:
        with pytest.raises(EdgebError, match="not in the candidate set"):
            assistant.dismiss("Vide")


class TestTimeline:
    def test_begins_with_the_history(self, assistant: Assistant) -> None:
        state = assistant.state()
        assert [event.origin for event in state.events] == ["history"] * 3
        assert state.events[1] == EventView("2024-03-18T09:00:00", "work", LABELS[3], "history")
        assert (state.now, state.place, state.earlier) == ("2024-03-18T10:15", "home", 0)
        assert state.places == ["home", "work"]

    def test_begins_empty(self, predictor: Predictor) -> None:
        assistant = Assistant(predictor, "tiny", ())
        state = assistant.state()
        assert state.events == []
        assert state.places == ["home", "work", "transit", "leisure"]
        assert assistant.predict(Ask(NOW, "home")).window == 0

    def test_add_accept_undo_start_over(self, assistant: Assistant, predictor: Predictor) -> None:
        assistant.add(LABELS[2], " home; or (not)\u202e ", NOW, accepted=False)
        assistant.add(LABELS[3], "work", NOW, accepted=True)
        events = assistant.state().events
        assert [event.origin for event in events[3:]] == ["added", "accepted"]
        assert events[3].place == "home or not"
        assistant.undo()
        assert len(assistant.state().events) == 4
        # What was taken back leaves no trace in the prediction.
        seen = [*HISTORY, BehaviorEvent("home or not", NOW, LABELS[2])]
        expected = predictor.predict(seen, NOW, "home", 5, options=PredictOptions(exhaustive=True))
        said = assistant.predict(ask(exhaustive=True))
        assert [item.probability for item in said.ranked] == pytest.approx(
            [r.probability for r in expected.ranked], abs=1e-6
        )
        assistant.start_over()
        assert len(assistant.state().events) == 3

    def test_a_label_is_cleaned_as_a_log_s_is(self, assistant: Assistant) -> None:
        assistant.add("  Video   Call ", "home", NOW, accepted=False)
        assert assistant.state().events[-1].behavior == "Video Call"

    def test_undo_of_nothing(self, predictor: Predictor) -> None:
        with pytest.raises(EdgebError, match="no event"):
            Assistant(predictor, "tiny", ()).undo()

    @pytest.mark.parametrize(
        ("behavior", "when", "message"),
        [("Vidio", NOW, "Vidio"), (LABELS[0], START - timedelta(days=2), "before the last event")],
    )
    def test_a_refused_event_changes_nothing(
        self, assistant: Assistant, behavior: str, when: datetime, message: str
    ) -> None:
        before = assistant.state()
        with pytest.raises(EdgebError, match=message):
            assistant.add(behavior, "home", when, accepted=False)
        assert assistant.state() == before

    def test_more_events_than_the_model_sees(self, assistant: Assistant) -> None:
        """The window grows to L + 20 and is re-based; the timeline keeps all, the page lists the last."""
        windows = []
        for i in range(70):
            assistant.add(LABELS[i % 3], "home", NOW + timedelta(minutes=i), accepted=False)
            windows.append(assistant.predict(ask(when=NOW + timedelta(minutes=i))).window)
        assert max(windows) == LENGTH + 20
        assert windows[windows.index(LENGTH + 20) + 1] == LENGTH
        state = assistant.state()
        assert (len(state.events), state.earlier) == (60, 13)

    def test_most_events(self, assistant: Assistant, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MOST_EVENTS", 3)
        with pytest.raises(EdgebError, match="at most 3"):
            assistant.add(LABELS[0], "home", NOW, accepted=False)
        monkeypatch.setattr(module, "MOST_EVENTS", 2)
        with pytest.raises(EdgebError, match="3 events"):
            Assistant(predictor, "tiny", HISTORY)

    def test_a_history_of_other_labels_is_refused_by_its_event(self, predictor: Predictor) -> None:
        with pytest.raises(EdgebError, match="history event 2: 'Vidio'"):
            Assistant(predictor, "tiny", [HISTORY[0], replace(HISTORY[1], behavior="Vidio")])

    def test_the_end_of_time(self, predictor: Predictor) -> None:
        last = BehaviorEvent("home", datetime.max.replace(microsecond=0), LABELS[0])
        assert Assistant(predictor, "tiny", [last]).state().now == "9999-12-31T23:59"


class TestSampleDay:
    def test_is_the_same_every_time_and_marked(self, predictor: Predictor) -> None:
        days = []
        for _ in range(2):
            assistant = Assistant(predictor, "tiny", ())
            assistant.fill_sample_day(NOW)
            days.append(assistant.state().events)
        assert days[0] == days[1]
        assert {event.origin for event in days[0]} == {"made up"}
        assert {event.behavior for event in days[0]} <= set(LABELS)
        assert all(event.time.startswith("2024-03-18") for event in days[0])
        found = [event.behavior for event in days[0]]
        assert max(found.count(label) for label in found) <= 2

    def test_only_fills_an_empty_day(self, assistant: Assistant) -> None:
        with pytest.raises(EdgebError, match="already"):
            assistant.fill_sample_day(NOW)


class TestWithoutPlaces:
    @pytest.fixture
    def placeless(self, predictor: Predictor) -> Assistant:
        layout = replace(predictor.manifest.layout, places=False)
        manifest = replace(predictor.manifest, layout=layout)
        return Assistant(Predictor(manifest, predictor._ranker.backend), "tiny.gguf", HISTORY)

    def test_none_is_shown_asked_for_or_taken(self, placeless: Assistant) -> None:
        assert placeless.bundle().places is False
        state = placeless.state()
        assert (state.place, state.places) == (None, [])
        assert {event.place for event in state.events} == {None}
        assert placeless.predict(ask(place=None)).ranked
        placeless.add(LABELS[1], None, NOW, False)
        assert placeless.state().events[-1].place is None
        for call in (lambda: placeless.predict(ask()), lambda: placeless.add(LABELS[1], "home", NOW, False)):
            with pytest.raises(EdgebError, match="without places"):
                call()

    def test_a_sample_day_without_them(self, predictor: Predictor) -> None:
        manifest = replace(predictor.manifest, layout=replace(predictor.manifest.layout, places=False))
        empty = Assistant(Predictor(manifest, predictor._ranker.backend), "tiny.gguf")
        empty.fill_sample_day(START)
        assert len(empty.state().events) > 5

    def test_with_places_one_is_needed(self, assistant: Assistant) -> None:
        assert assistant.bundle().places is True
        with pytest.raises(EdgebError, match="no place was given"):
            assistant.add(LABELS[1], None, NOW, False)
