"""Events as tokens: the numbers of training, whatever the text."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.inputs import causal_row
from edge_behavior.baselines.sequence.kept import KeptModel
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import BehaviorEvent, clean_place
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import EventTable
from edge_behavior.export.sequence.writer import place_hashes, shape_of
from edge_behavior.runtime.sequence.tokens import EventTokens
from tests import helpers, sequence_files

SIZE = len(helpers.LABELS)


def tokens_of(context: bool = True) -> tuple[EventTokens, KeptModel]:
    model = sequence_files.described(config=SequenceConfig(hidden=16, heads=2, context=context))
    return EventTokens(shape_of(model), helpers.LABELS, place_hashes(model)), model


names = st.one_of(st.sampled_from(sequence_files.PLACES), st.text(max_size=60))
event = st.tuples(st.integers(0, 3000), names, st.sampled_from(helpers.LABELS))


@settings(max_examples=100, deadline=None)
@given(st.lists(event, min_size=1, max_size=7), st.booleans())
def test_a_prompt_is_the_row_of_training(drawn: list[tuple[int, str, str]], places: bool) -> None:
    tokens, model = tokens_of()
    when, events = datetime(2023, 12, 28, 23, 30), []
    for minutes, place, label in drawn:
        when += timedelta(minutes=minutes)
        # As a dataset has them; without places all are the unknown one.
        events.append(BehaviorEvent(clean_place(place) if places else "unknown", when, label))
    listed = sorted({e.place for e in events})
    table = EventTable(
        user_offsets=np.array([0, len(events)]),
        time=np.array([e.time for e in events], dtype="datetime64[s]"),
        place=np.array([listed.index(e.place) for e in events], dtype=np.int32),
        behavior=np.array([helpers.LABELS.index(e.behavior) for e in events], dtype=np.int32),
        places=listed,
        candidates=model.log.candidates,
    )
    row = causal_row(model.vocabulary.columns(table), 0, len(events), SIZE)
    layout = PromptLayout(list_candidates=False, history_length=model.length, places=places)
    encoder = PromptEncoder(tokens.encode, layout, model.log.candidates, tokens.start, tokens.start)
    ids = encoder.prompt_ids(events[:-1], events[-1].time, events[-1].place)
    found = tokens.positions(ids)
    assert found.behavior.tolist() == row.behavior.tolist()
    assert found.event.tolist() == row.event.tolist()
    assert found.target.tolist() == row.target.tolist()
    assert len(ids) == 1 + 4 * (len(events) - 1) + 3
    assert all(0 <= i < tokens.size for i in ids)


def test_labels_are_their_codes_and_one_token() -> None:
    for context in (True, False):
        tokens, model = tokens_of(context)
        encoder = PromptEncoder(
            tokens.encode, PromptLayout(list_candidates=False), model.log.candidates, tokens.start, tokens.start
        )
        assert [encoder.trie.path(i) for i in range(SIZE)] == [[i] for i in range(SIZE)]
        assert encoder.static_ids == [SIZE]
        assert tokens.per_event == (4 if context else 1)


@given(st.text(max_size=30))
def test_text_of_a_log_is_no_event(text: str) -> None:
    tokens, _ = tokens_of()
    for segment in (text, f" {text}", f"({text},", f"(Mon {text},"):
        ids = tokens.encode(segment)
        assert len(ids) in (0, 1, 3)
        assert len(ids) != 1 or segment[1:] in helpers.LABELS


@pytest.mark.parametrize(
    "text", ["", "(Mon 24, DK,", "(Mon 9, DK", "(Mon 9 DK,", "(mon 9, DK,", "(Mon 9, a, b,", "Video", " Vide", ")\n"]
)
def test_what_no_prompt_holds_has_no_tokens(text: str) -> None:
    assert tokens_of()[0].encode(text) == []


def test_a_model_of_behaviors_reads_no_context() -> None:
    tokens, _ = tokens_of(context=False)
    assert tokens.encode("(Mon 9, DK,") == []
    assert tokens.size == SIZE + 1


def test_unknown_places_share_a_token() -> None:
    tokens, _ = tokens_of()
    known, other = tokens.encode("(Mon 9, DK,"), tokens.encode("(Mon 9, nowhere,")
    assert known[:2] == other[:2]
    assert known[2] == other[2] + 1
    assert tokens.encode("(Mon 9, elsewhere,") == other
    # Two hours share a bucket, and a log without places has the unknown one everywhere.
    assert tokens.encode("(Mon 8, DK,") == known
    assert tokens.encode("(Mon 9,") == tokens.encode("(Mon 9, unknown,")
