"""Garbage in the Python API's arguments: one clear EdgebError, and the predictor stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_behavior.core.events import BehaviorEvent
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests import helpers

NOON = datetime(2024, 3, 18, 12)
ZONED = NOON.replace(tzinfo=timezone(timedelta(hours=2)))
EVENT = BehaviorEvent("DK", NOON, "Video")
NAN = float("nan")


@pytest.fixture(scope="module")
def predictor(small_bundle: Path) -> Iterator[Predictor]:
    with Predictor.load(small_bundle, threads=1, prefix_cache=False) as opened:
        yield opened


def event(**fields: Any) -> BehaviorEvent:
    return BehaviorEvent(**{"place": "DK", "time": NOON, "behavior": "Video", **fields})


BAD_OPTIONS = [
    *(("top_k", value) for value in (0, -1, 2.5, "3", True, NAN, [1], -(10**30))),
    *(("scoring", value) for value in (None, 1, "exakt", [], {"exact"})),
    *(("source", value) for value in (1, "both", ["model"], b"model")),
    *(("only", value) for value in ([], "Video", ["Vidio"], [1], [None], 3, [["Video"]], b"Video", {"Video": 1})),
    *(("exclude", value) for value in (None, "Video", ["Vidio"], [2.5], helpers.LABELS)),
    *(("exhaustive", value) for value in ("no", None, 1)),
    *(("calibrated", value) for value in ("yes", None, 0)),
    *((name, value) for name in ("precision", "coverage") for value in (NAN, 1.5, -0.1, "0.8", True, float("inf"))),
]


def arguments(options: dict[str, Any]) -> dict[str, Any]:
    """`top_k` and the options as `predict` takes them."""
    others = {name: value for name, value in options.items() if name != "top_k"}
    return {"top_k": options.get("top_k"), "options": PredictOptions(**others)}


@pytest.mark.parametrize(("name", "value"), BAD_OPTIONS)
def test_options(name: str, value: Any, predictor: Predictor) -> None:
    before = predictor.predict([EVENT], NOON, "DK", None).ranked
    with pytest.raises(EdgebError) as caught:
        predictor.predict([EVENT], NOON, "DK", **arguments({name: value}))
    assert name in caught.value.message or "candidate" in caught.value.message
    assert caught.value.hint
    with pytest.raises(EdgebError):
        predictor.session().predict(NOON, "DK", **arguments({name: value}))
    assert [r.behavior for r in predictor.predict([EVENT], NOON, "DK", None).ranked] == [r.behavior for r in before]


@pytest.mark.parametrize(
    ("history", "when", "place", "said"),
    [
        ([], ZONED, "DK", "when carries a time zone"),
        ([], "2024-03-18T12:00", "DK", "when is '2024"),
        ([], date(2024, 3, 18), "DK", "when is datetime.date"),
        ([], None, "DK", "when is None"),
        ([], np.datetime64("2024-03-18"), "DK", "when is np.datetime64|when is numpy.datetime64"),
        ([], NOON, 3, "place is 3"),
        ([], NOON, b"DK", "place is b'DK'"),
        (None, NOON, "DK", "history is None"),
        ("history.csv", NOON, "DK", "history is 'history.csv'"),
        (iter([EVENT]), NOON, "DK", "history is "),
        ([EVENT, "Video"], NOON, "DK", "history event 2 is 'Video'"),
        ([("DK", NOON, "Video")], NOON, "DK", "history event 1 is "),
        ([event(time=ZONED)], NOON, "DK", "the time of history event 1 carries a time zone"),
        ([event(time="12:00")], NOON, "DK", "the time of history event 1 is '12:00'"),
        ([event(place=None)], NOON, "DK", "the place of history event 1 is None"),
        ([event(behavior=4)], NOON, "DK", "the behavior of history event 1 is 4"),
        ([event(behavior=["Video"])], NOON, "DK", "the behavior of history event 1 is "),
    ],
)
def test_questions(history: Any, when: Any, place: Any, said: str, predictor: Predictor) -> None:
    for ask in (predictor.predict, predictor.log_probs):
        with pytest.raises(EdgebError, match=said) as caught:
            ask(history, when, place)
        assert "pass " in caught.value.hint


def test_events_observed(predictor: Predictor) -> None:
    session = predictor.session()
    session.observe(EVENT)
    for bad in (None, "Video", event(time=ZONED), event(place=7), event(behavior=None), event(time=None)):
        with pytest.raises(EdgebError, match="the event observed"):
            session.observe(bad)  # type: ignore[arg-type]
    assert session.events == (EVENT,)
    assert session.habits.events == 1
    for when in (ZONED, None, "noon"):
        with pytest.raises(EdgebError, match="when"):
            session.predict(when, "DK")  # type: ignore[arg-type]


def test_pandas_has_a_time_that_is_none(predictor: Predictor) -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(EdgebError, match="when is NaT"):
        predictor.predict([], pandas.NaT, "DK")
    assert predictor.predict([], pandas.Timestamp(NOON), "DK", None).ranked


def test_what_is_meant_is_taken(predictor: Predictor, small_bundle: Path, tmp_path: Path) -> None:
    """NumPy's numbers, tuples and sets of labels, paths as text, as many candidates as anyone likes."""
    ranked = predictor.predict(
        (EVENT,), NOON, "DK", np.int64(3), options=PredictOptions(exhaustive=np.bool_(True))
    ).ranked  # type: ignore[arg-type]
    assert len(ranked) == 3
    assert len(predictor.predict([EVENT], NOON, "DK", 10**30).ranked) == len(helpers.LABELS)
    assert len(predictor.predict([EVENT], NOON, "DK", None, options=PredictOptions(only={"Video", "Bar"})).ranked) == 2  # type: ignore[arg-type]
    with Predictor.load(str(small_bundle), threads=1, prefix_cache=str(tmp_path / "snapshots")) as opened:
        session = opened.session()
        session.observe(EVENT)
        session.save(str(tmp_path / "saved"))
        assert opened.restore(str(tmp_path / "saved")).events == (EVENT,)
    assert list((tmp_path / "snapshots").iterdir())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bundle": None}, "bundle is None"),
        ({"bundle": 3}, "bundle is 3"),
        ({"bundle": "m\0.gguf"}, "bundle is 'm"),
        ({"bundle": Path("\ud800.gguf")}, "bundle is "),
        ({"prefix_cache": "a\0b"}, "prefix_cache is 'a"),
        ({"bundle": b"m.gguf"}, "bundle is b'm.gguf'"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": -4}, "threads is -4"),
        ({"threads": 8000}, "threads is 8000, but this process may use"),
        ({"threads": 1.5}, "threads is 1.5"),
        ({"threads": True}, "threads is True"),
        ({"threads": "2"}, "threads is 2"),
        ({"verify": "no"}, "verify is 'no'"),
        ({"exact_math": None}, "exact_math is None"),
        ({"prefix_cache": None}, "prefix_cache is None"),
    ],
)
def test_loading(given: dict[str, Any], said: str, small_bundle: Path) -> None:
    with pytest.raises(EdgebError, match=said):
        Predictor.load(**{"bundle": small_bundle, "prefix_cache": False, **given})


@pytest.mark.parametrize("rebase_every", [0, -1, 1.5, None, "20", True])
def test_sessions(rebase_every: Any, predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match="rebase_every is "):
        predictor.session(rebase_every)
    with pytest.raises(EdgebError, match="path is "):
        predictor.session().save(rebase_every if not isinstance(rebase_every, str) else None)  # type: ignore[arg-type]


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.datetimes(), st.datetimes(timezones=st.timezones()), st.lists(st.text(max_size=3), max_size=3),
    st.lists(st.builds(BehaviorEvent, st.just("DK"), st.datetimes(), st.sampled_from(helpers.LABELS)), max_size=3),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=ANYTHING, when=ANYTHING, place=ANYTHING, options=st.dictionaries(
    st.sampled_from(["top_k", "scoring", "source", "only", "exclude", "exhaustive", "calibrated", "precision"]),
    ANYTHING, max_size=2))  # fmt: skip
def test_anything_is_answered_or_refused(
    history: Any, when: Any, place: Any, options: dict[str, Any], predictor: Predictor
) -> None:
    try:
        found = predictor.predict(history, when, place, **arguments(options))
    except EdgebError as error:
        said = error.message
    else:
        said = found.ranked[0].behavior
    assert said.splitlines() == [said]
