"""The networks in NumPy against the ones that are trained, on prompts of any length."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.fitting import FittedSequence, WindowRows
from edge_behavior.baselines.sequence.inputs import padded
from edge_behavior.bundle.sequence_file import read_sequence
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import EventTable
from edge_behavior.runtime.backends.sequence import SequenceBackend
from edge_behavior.runtime.sequence.network import SequenceNetwork
from edge_behavior.runtime.sequence.tokens import EventTokens
from tests import helpers, sequence_files

KINDS = [(name, context) for name in sequence_files.NAMES for context in (True, False)]
WHEN = datetime(2024, 3, 18, 6)
SIZE = len(helpers.LABELS)
PLACES = (*sequence_files.PLACES, "somewhere else", "AB")


@cache
def fitted(name: str, context: bool) -> FittedSequence:
    model = sequence_files.described(name, config=SequenceConfig(hidden=24, layers=2, heads=3, context=context))
    rows = WindowRows(name, model.config, model.length, SIZE)
    return FittedSequence(sequence_files.network(model).double(), rows, model.vocabulary, model.log, model.origin)


def torch_logits(model: FittedSequence, events: list[BehaviorEvent]) -> np.ndarray:
    """By the rows that training makes: the last event is asked for."""
    candidates, places = model.log.candidates, sorted({event.place for event in events})
    table = EventTable(
        user_offsets=np.array([0, len(events)]),
        time=np.array([event.time for event in events], dtype="datetime64[s]"),
        place=np.array([places.index(event.place) for event in events], dtype=np.int32),
        behavior=np.array([candidates.code(event.behavior) for event in events], dtype=np.int32),
        places=places,
        candidates=candidates,
    )
    rows = model.rows.windows(table, model.vocabulary.columns(table), np.array([len(events) - 1]))
    batch = {name: torch.from_numpy(held) for name, held in padded(rows).items() if name != "answers"}
    with torch.inference_mode():
        return np.asarray(model.model(**batch)["logits"][0, -1].numpy())


def encoder_of(model: FittedSequence, tokens: EventTokens) -> PromptEncoder:
    layout = PromptLayout(list_candidates=False, history_length=model.rows.length)
    return PromptEncoder(tokens.encode, layout, model.log.candidates, tokens.start, tokens.start)


Drawn = tuple[int, str, str]
_FILES: dict[tuple[str, bool], Path] = {}
event = st.tuples(st.integers(0, 400), st.sampled_from(PLACES), st.sampled_from(helpers.LABELS))


@pytest.mark.parametrize(("name", "context"), KINDS)
@settings(max_examples=40, deadline=None)
@given(drawn=st.lists(event, max_size=9), last=event)
def test_logits_are_pytorchs(
    name: str, context: bool, drawn: list[Drawn], last: Drawn, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = fitted(name, context)
    when, events = WHEN, []
    for minutes, place, label in (*drawn, last):
        when += timedelta(minutes=minutes)
        events.append(BehaviorEvent(place, when, label))
    described = sequence_files.described(name, config=model.rows.config)
    if (name, context) not in _FILES:
        _FILES[name, context] = tmp_path_factory.mktemp("file") / "m.gguf"
        sequence_files.plain(described, model.model, _FILES[name, context])
    file = read_sequence(_FILES[name, context])
    tokens = EventTokens(file.shape, file.labels, file.places)
    ids = encoder_of(model, tokens).prompt_ids(events[:-1], events[-1].time, events[-1].place)
    found = SequenceNetwork(file.shape, file.tensors).logits(tokens.positions(ids))
    np.testing.assert_allclose(found, torch_logits(model, events), atol=1e-9)


@pytest.mark.parametrize(("name", "context"), KINDS)
def test_half_precision_changes_little(name: str, context: bool, tmp_path: Path) -> None:
    model = sequence_files.described(name, config=SequenceConfig(hidden=16, heads=2, context=context))
    made = sequence_files.network(model)
    rows = []
    for dtype in ("f32", "f16"):
        backend = SequenceBackend(sequence_files.plain(model, made, tmp_path / f"{dtype}.gguf", dtype))
        rows.append(backend.prefill([SIZE, *range(4)])[0][:SIZE])
        backend.close()
    difference = np.abs(rows[0] - rows[1]).max()
    assert 0 < difference < 0.05 * np.abs(rows[0]).max()


@pytest.mark.parametrize(("name", "context"), KINDS)
def test_the_first_event_is_asked_for_without_a_past(name: str, context: bool, tmp_path: Path) -> None:
    model = fitted(name, context)
    only = [BehaviorEvent("DK", WHEN, "Bar")]
    backend = SequenceBackend(
        sequence_files.plain(sequence_files.described(name, config=model.rows.config), model.model, tmp_path / "m.gguf")
    )
    ids = backend.tokenize("(Mon 6, DK,")
    row, count = backend.prefill([SIZE, *ids])
    assert count == 1
    np.testing.assert_allclose(row[:SIZE], torch_logits(model, only), atol=1e-5)
    assert np.isneginf(row[SIZE:]).all()
    backend.close()
