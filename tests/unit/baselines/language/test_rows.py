"""Where vectors stand: before every line of every layout, and more and more often along a curriculum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.baselines.language.rows import Collate, Curriculum, EventRows, with_places
from edge_behavior.baselines.sequence.inputs import ContextVocabulary
from edge_behavior.train.rows.lazy import IGNORED, RowList
from edge_behavior.train.rows.samples import behavior_rows, window_lines, window_prompt
from tests.helpers import LABELS
from tests.unit.baselines.language.conftest import LENGTH, language

MARK = 10_000


@given(st.lists(st.integers(0, 99), max_size=20), st.data(), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_marks_are_numbered_in_order_and_nothing_else_moves(ids: list[int], data: Any, places: int) -> None:
    lines = sorted(data.draw(st.sets(st.integers(0, len(ids)))))
    found = with_places(ids, lines, places, MARK)
    assert [i for i in found if i < MARK] == ids
    assert [i - MARK for i in found if i >= MARK] == list(range(places * len(lines)))
    before = [sum(i < MARK for i in found[: found.index(MARK + n * places)]) for n in range(len(lines)) if places]
    assert before == (lines if places else [])
    filled = with_places(ids, lines, places, 0, IGNORED)
    assert [i for i, j in zip(filled, found, strict=True) if j < MARK] == ids
    assert {i for i, j in zip(filled, found, strict=True) if j >= MARK} <= {IGNORED}


@pytest.mark.parametrize("layout", ["stream", "prefix", "instruct"])
def test_every_line_of_a_training_row_has_its_place(layout: str, users: Any) -> None:
    held = language(layout=layout, stretch_max=LENGTH + 1, targets="all")
    stage, encoder, table = held.recipe.a_tuning, held.encoder, users.table
    rows = behavior_rows(table, encoder, stage, 50, 0)
    marked = EventRows(rows, 2, 0)
    vocabulary = ContextVocabulary.of(table, 2, 1)
    collate = Collate(MARK, 2, [vocabulary.columns(table)], len(LABELS))
    batch = collate([marked[i] for i in range(8)])
    ids, numbers = batch["input_ids"], iter(range(MARK, MARK + 10_000))
    for i in range(8):
        start, stop = int(rows.starts[i]), int(rows.stops[i])
        own = [int(n) for n in ids[i][: int(batch["attention_mask"][i].sum())]]
        assert len(own) == marked.lengths[i]
        assert [n for n in own if n < MARK] == rows[i]["input_ids"]
        # Marks are numbered over the batch, two before each event; the line that follows is that event's.
        at = [k for k, n in enumerate(own) if n >= MARK]
        assert [own[k] for k in at] == [next(numbers) for _ in range(2 * (stop - start))]
        for event, k in zip(table.between(start, stop - 1), at[1::2], strict=False):
            line = encoder.line_ids(event)
            assert own[k + 1 : k + 1 + len(line)] == line
        # The sequence model sees, at position j, the behavior before event j.
        expected = [len(LABELS), *table.behavior[start : stop - 1].tolist()]
        assert batch["events"]["behavior"][i][: stop - start].tolist() == expected
        assert int(batch["events"]["present"][i].sum()) == stop - start
    assert ((batch["labels"] != IGNORED) <= (ids < MARK)).all()
    assert int((batch["labels"] != IGNORED).sum()) == int(rows.labelled[:8].sum())


@pytest.mark.parametrize("layout", ["stream", "prefix", "instruct"])
@pytest.mark.parametrize("target", [0, 1, 8])
def test_lines_of_a_window(layout: str, target: int, users: Any) -> None:
    encoder = language(layout=layout).encoder
    prompt, lines = (
        window_prompt(users.table, encoder, target, encoder.layout.formats - 1),
        window_lines(users.table, encoder, target, encoder.layout.formats - 1),
    )
    shown = users.table.history(target, LENGTH)
    assert len(lines) == len(shown) + 1
    for event, start in zip(shown, lines[:-1], strict=True):
        line = encoder.line_ids(event)
        assert prompt[start : start + len(line)] == line


def test_a_curriculum_goes_from_text_only_to_hybrid() -> None:
    rows = RowList([{"input_ids": [1], "labels": [1], "lines": [0], "events": [0, 0, 1]}] * 8000)
    found = Curriculum(rows, 4, 1.0, 0)
    hybrid = np.array(["events" in found[i] for i in range(len(found))])
    # Whole batches, evenly more of them, and of the last hundred nearly all.
    assert (hybrid.reshape(-1, 4).sum(1) % 4 == 0).all()
    quarters = hybrid.reshape(4, -1).mean(1)
    np.testing.assert_allclose(quarters, [1 / 8, 3 / 8, 5 / 8, 7 / 8], atol=0.05)
    assert hybrid[-400:].mean() > 0.9
    assert not any("events" in Curriculum(rows, 4, 0.0, 0)[i] for i in range(0, 8000, 7))
    np.testing.assert_allclose(np.mean(Curriculum(rows, 4, 0.5, 0).hybrid), 0.25, atol=0.03)


def test_rows_without_events_are_text() -> None:
    batch = Collate(MARK)([{"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3]}, {"input_ids": [4], "labels": [4]}])
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert torch.equal(batch["labels"], torch.tensor([[IGNORED, 2, 3], [4, IGNORED, IGNORED]]))
