"""A window shows what a session shows at that point, whichever other windows are asked for."""

from __future__ import annotations

import random
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.habits import HabitCounter
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.search import Goal
from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import eligible
from edge_behavior.runtime.session import Session
from edge_behavior.train.rows.samples import window_prompt
from edge_behavior.train.rows.windows import SHARING, WindowSet, session_starts
from tests import helpers

LAYOUT = PromptLayout("stream", history_length=5)


def table() -> EventTable:
    rng = random.Random(0)
    return helpers.event_table([rng.choices(helpers.LABELS, k=size) for size in (30, 6, 19)])


@pytest.mark.parametrize("rebase_every", [1, 4, 20])
def test_starts_are_those_of_a_session(rebase_every: int) -> None:
    events, candidates = table(), CandidateSet.of(helpers.LABELS)
    ranker: Any = SimpleNamespace(
        manifest=SimpleNamespace(layout=LAYOUT, candidates=candidates),
        encoder=SimpleNamespace(line_ids=lambda _: []),
        counter=lambda: HabitCounter(candidates.counts),
        turn=nullcontext,
    )
    for first, stop in zip(events.user_offsets[:-1].tolist(), events.user_offsets[1:].tolist(), strict=True):
        session = Session(ranker, rebase_every)
        for target in range(first, stop):
            [start] = session_starts(events, np.array([target]), LAYOUT.history_length, rebase_every)
            assert list(session.events) == events.between(int(start), target)
            session.observe(events.event(target))


@pytest.mark.parametrize("rebase_every", [None, 2, 4, 20])
def test_every_window_has_its_own_prompt_and_truth(rebase_every: int | None) -> None:
    events, encoder = table(), helpers.encoder(helpers.tokenizer(), LAYOUT)
    targets = np.random.default_rng(0).permutation(eligible(events, LAYOUT.history_length))
    # Some are asked twice, as where natural and balanced windows meet.
    targets = np.concatenate([targets, targets[:5]])
    windows = WindowSet(events, targets, np.zeros(len(targets), np.int64), rebase_every)
    sequences, where = windows.prompts(encoder, Goal(1))
    asked = [(list(one.ids[:end]), goal) for one in sequences for end, goal in zip(one.ends, one.goals, strict=True)]
    assert len(where) == len(targets)
    for window, (ids, goal) in enumerate(asked[prompt] for prompt in where):
        target = int(targets[window])
        assert goal == Goal(1, target=int(events.behavior[target]))
        if rebase_every is None:
            assert ids == window_prompt(events, encoder, target)
        else:
            [start] = session_starts(events, targets[[window]], LAYOUT.history_length, rebase_every)
            event = events.event(target)
            lines = [i for past in events.between(int(start), target) for i in encoder.line_ids(past)]
            assert ids == [*encoder.static_ids, *lines, *encoder.frame_ids(event.time, event.place)[1]]
    if rebase_every is not None:
        assert len(sequences) < len(targets) / 2
        assert all(np.diff(one.ends).min(initial=1) > 0 for one in sequences)
        assert max(len(one.ends) for one in sequences) == min(rebase_every + 1, SHARING)
        few, _ = WindowSet(events, targets[:3], np.zeros(3, np.int64), rebase_every).prompts(encoder, Goal(1))
        alone = {tuple(one.ids[:end]) for one in few for end in one.ends}
        assert alone <= {tuple(ids) for ids, _ in asked}
