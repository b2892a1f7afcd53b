"""Stage 1 rows: what carries a loss, and what does not."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import EventTable
from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import ATuning
from edge_behavior.train.rows.samples import IGNORED, behavior_rows, supervised_targets, target_mask
from tests import helpers

COUNTS = [900, 60, 3, 400, 20, 30, 2, 100, 1]


@pytest.fixture(scope="module")
def tokens() -> object:
    return helpers.tokenizer()


def table(users: int = 6, length: int = 50, seed: int = 0) -> EventTable:
    rng = random.Random(seed)
    return helpers.event_table([rng.choices(helpers.LABELS, COUNTS, k=length) for _ in range(users)], counts=COUNTS)


def spans(labels: list[int]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff([0, *(label != IGNORED for label in labels), 0]))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def test_stream_rows_carry_anchors_only_from_the_second_event(tokens: object) -> None:
    encoder, settings = helpers.encoder(tokens), ATuning(stretch_min=2, stretch_max=9)
    mask = target_mask(settings, table())
    anchors = {" " + label for label, wanted in zip(helpers.LABELS, mask, strict=True) if wanted}
    assert 0 < len(anchors) < len(helpers.LABELS)
    rows = behavior_rows(table(), encoder, settings, 10_000, seed=1)
    end = tokens.decode(encoder.terminator_ids)  # type: ignore[attr-defined]
    for row in rows:
        text = tokens.decode(row["input_ids"][len(encoder.static_ids) :])  # type: ignore[attr-defined]
        lines = text.split("\n")[:-1]
        assert 2 <= len(lines) <= 9
        carried = [tokens.decode(row["input_ids"][a:b]) for a, b in spans(row["labels"])]  # type: ignore[attr-defined]
        expected = [f" {line[1:-1].split(', ')[-1]}" for line in lines[1:]]
        assert carried == [label + end for label in expected if label in anchors]
        for a, b in spans(row["labels"]):
            assert row["labels"][a:b] == row["input_ids"][a:b]


def test_every_anchor_event_is_a_target_once_per_epoch(tokens: object) -> None:
    encoder, settings, events = helpers.encoder(tokens), ATuning(stretch_max=7), table()
    mask = target_mask(settings, events)
    rows = behavior_rows(events, encoder, settings, 10_000, seed=0)
    firsts = events.user_offsets[:-1]
    expected = int(mask[events.behavior].sum()) - int(mask[events.behavior[firsts]].sum())
    assert supervised_targets(rows, encoder) == expected


def test_target_budget(tokens: object) -> None:
    encoder = helpers.encoder(tokens)
    rows = behavior_rows(table(), encoder, ATuning(stretch_max=5), 40, seed=0)
    assert 40 <= supervised_targets(rows, encoder) < 40 + 5


def test_epochs_cut_differently_and_seeds_repeat(tokens: object) -> None:
    encoder, settings = helpers.encoder(tokens), ATuning()
    one, again, other = (list(behavior_rows(table(), encoder, settings, 10_000, seed=s)) for s in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.parametrize("name", ["prefix", "instruct"])
def test_prompt_rows_carry_the_label_only(tokens: object, name: str) -> None:
    encoder = helpers.encoder(tokens, PromptLayout(name=name))
    rows = behavior_rows(table(), encoder, ATuning(targets="all"), 20, seed=0)
    assert len(rows) == supervised_targets(rows, encoder) == 20
    for row in rows:
        [(start, stop)] = spans(row["labels"])
        assert stop == len(row["labels"])
        assert row["labels"][-1] == tokens.eos_token_id  # type: ignore[attr-defined]
        assert tokens.decode(row["labels"][start:-1])[1:] in helpers.LABELS  # type: ignore[attr-defined]


def test_target_choices() -> None:
    events = table()
    groups = np.array(events.candidates.groups())
    assert (target_mask(ATuning(targets="tail"), events) == (groups == "tail")).all()
    assert (target_mask(ATuning(targets="medium_and_tail"), events) == (groups != "head")).all()
    assert target_mask(ATuning(targets="all"), events).all()
    wide = target_mask(ATuning(anchor_threshold=0.2), events)
    assert wide.sum() == 2


def test_no_anchor_at_all() -> None:
    with pytest.raises(EdgebError, match="leaves no behavior"):
        target_mask(ATuning(anchor_threshold=0.99), table())


@pytest.mark.parametrize("name", ["stream", "prefix"])
def test_a_later_part_carries_a_loss_on_its_own_events_only(tokens: object, name: str) -> None:
    whole = table(users=3, length=40)
    firsts = whole.user_offsets[:-1] + np.array([0, 30, 39])
    part = replace(whole, first_targets=firsts)
    encoder = helpers.encoder(tokens, PromptLayout(name, history_length=5))
    rows = behavior_rows(part, encoder, ATuning(targets="all", stretch_min=2, stretch_max=6), 10_000, seed=3)
    carried: list[int] = []
    for start, stop in zip(rows.starts.tolist(), rows.stops.tolist(), strict=True):
        carried += range(start + 1, stop) if name == "stream" else [stop - 1]
    # Nobody's first event has anything before it, and a prompt's target has a full history.
    first = [1 if name == "stream" else 5, 70, 119]
    ends = whole.user_offsets[1:].tolist()
    assert sorted(carried) == [i for start, end in zip(first, ends, strict=True) for i in range(start, end)]
    assert supervised_targets(rows, encoder) == len(carried)
