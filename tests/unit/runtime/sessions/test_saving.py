"""A saved session goes on where it stopped; what is not its own, or not whole, is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from edge_behavior.runtime.state_file import read_state, write_state
from tests import helpers
from tests.unit.runtime.sessions.conftest import feed, probabilities


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
