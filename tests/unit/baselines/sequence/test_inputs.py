"""What a row shows and asks, and which events are trained on."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.baselines.sequence.inputs import (
    IGNORED,
    ContextVocabulary,
    asked_only,
    causal_row,
    cloze_row,
    padded,
    training_stretches,
)
from tests.helpers import LABELS, event_table

TABLE = event_table([LABELS, LABELS[::-1], LABELS[:2]])
VOCABULARY = ContextVocabulary.of(TABLE, hour_bucket=2, place_events=10)
COLUMNS = VOCABULARY.columns(TABLE)
SYMBOL = len(LABELS)


def test_contexts_are_hour_weekday_and_place() -> None:
    # Every third hour from Monday 1 January 2024 on, DK and AB in turns; DK has 11 events and AB 9.
    assert VOCABULARY.places == ("DK",)
    assert VOCABULARY.sizes == (13, 8, 3)
    assert COLUMNS.context[:9].tolist() == [
        [1, 1, 2], [2, 1, 1], [4, 1, 2], [5, 1, 1], [7, 1, 2], [8, 1, 1], [10, 1, 2], [11, 1, 1], [1, 2, 2],
    ]  # fmt: skip


def test_places_are_found_by_name() -> None:
    turned = event_table([LABELS, LABELS[::-1], LABELS[:2]])
    turned.places.reverse()
    found = VOCABULARY.columns(turned).context[:, 2]
    assert (found == np.where(COLUMNS.context[:, 2] == 2, 1, 2)).all()


def test_a_causal_row_asks_every_event_after_those_before_it() -> None:
    row = causal_row(COLUMNS, 1, 5, SYMBOL)
    assert row.behavior.tolist() == [SYMBOL, 1, 2, 3]
    assert row.answers.tolist() == [1, 2, 3, 4]
    assert row.event.tolist() == [[0, 0, 0], *COLUMNS.context[1:4].tolist()]
    assert (row.target == COLUMNS.context[1:5]).all()
    some = asked_only(row, np.array([False, True, False, True]))
    assert some.answers.tolist() == [IGNORED, 2, IGNORED, 4]
    assert some.behavior.tolist() == row.behavior.tolist()


def test_a_cloze_row_never_shows_what_it_asks() -> None:
    hidden = np.array([False, True, False, True])
    row = cloze_row(COLUMNS, 1, 5, hidden, SYMBOL)
    assert row.behavior.tolist() == [1, SYMBOL, 3, SYMBOL]
    assert row.answers.tolist() == [IGNORED, 2, IGNORED, 4]
    assert (row.event == COLUMNS.context[1:5]).all()


def test_a_batch_is_padded_at_the_end() -> None:
    found = padded([causal_row(COLUMNS, 0, 3, SYMBOL), causal_row(COLUMNS, 0, 1, SYMBOL)])
    assert found["behavior"].tolist() == [[SYMBOL, 0, 1], [SYMBOL, 0, 0]]
    assert found["answers"].tolist() == [[0, 1, 2], [0, IGNORED, IGNORED]]
    assert found["present"].tolist() == [[True, True, True], [True, False, False]]
    assert found["target"].shape == (2, 3, 3)


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(0, 80),
    st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_stretches_hold_every_event_once_up_to_the_budget(
    sizes: list[int], length: int, targets: int, seed: int
) -> None:
    table = event_table([LABELS[:1] * size for size in sizes])
    starts, stops = training_stretches(table, length, targets, seed)
    events = [i for a, b in zip(starts.tolist(), stops.tolist(), strict=True) for i in range(a, b)]
    assert len(events) == len(set(events)) == min(targets or sum(sizes), sum(sizes))
    assert all(0 < size <= length for size in (stops - starts).tolist())
    assert (table.user_of(starts) == table.user_of(stops - 1)).all()
