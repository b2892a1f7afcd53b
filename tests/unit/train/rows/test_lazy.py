"""Rows that are made when they are read: the same as all rows made at once, and none before its time."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.prompts import LAYOUTS, ChatTurns, PromptLayout
from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import eligible
from edge_behavior.train.recipe import ATuning, LayoutConfig, LoraSettings, Recipe
from edge_behavior.train.rows import samples
from edge_behavior.train.rows.batches import batch_order, batched
from edge_behavior.train.rows.conversations import Conversations, generated_conversations
from edge_behavior.train.rows.epochs import a_tuning_rows
from edge_behavior.train.rows.lazy import IGNORED, OrderedRows, Row, RowList, Rows, joined
from edge_behavior.train.rows.samples import behavior_rows, pool_windows, supervised_targets, target_mask
from edge_behavior.train.stages.sft import train_sft
from edge_behavior.train.stages.tuning import Tuning
from tests import helpers

COUNTS = [900, 60, 3, 400, 20, 30, 2, 100, 1]
PLACES = ["DK", "Café du Nord", "a/b (c)", "", "Straße 12", "買い物"]


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


def table(users: int = 7, length: int = 45) -> EventTable:
    """Users of different lengths, at odd minutes, some before 1970, in places of different token counts."""
    rng = random.Random(3)
    made = helpers.event_table(
        [rng.choices(helpers.LABELS, COUNTS, k=length - 7 * user) for user in range(users)], counts=COUNTS
    )
    minutes = np.array([rng.randrange(60 * 24 * 365 * 60) for _ in range(len(made))]).astype("timedelta64[m]")
    time = np.datetime64("1965-01-01T00:00:00", "s") + minutes
    place = np.array([rng.randrange(len(PLACES)) for _ in range(len(made))], dtype=np.int32)
    return dataclasses.replace(made, time=time, place=place, places=PLACES)


def eager_rows(events: EventTable, encoder: PromptEncoder, settings: ATuning, targets: int, seed: int) -> list[Row]:
    """All rows at once, with one random number after the other."""
    rng, mask, rows = np.random.default_rng(seed), target_mask(settings, events), []
    if encoder.layout.name != "stream":
        order = rng.permutation(eligible(events, encoder.layout.history_length))
        for target in [t for t in order if mask[events.behavior[t]]][:targets]:
            wording, event = int(rng.integers(encoder.layout.formats)), events.event(target)
            past = [events.event(i) for i in range(target - encoder.layout.history_length, target)]
            prompt = encoder.prompt_ids(past, event.time, event.place, wording)
            answer = encoder.label_ids(event.behavior)
            rows.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
        return rows
    cuts = []
    for at, end in zip(events.user_offsets[:-1].tolist(), events.user_offsets[1:].tolist(), strict=True):
        while end - at >= settings.stretch_min:
            size = min(int(rng.integers(settings.stretch_min, settings.stretch_max + 1)), end - at)
            cuts.append((at, at + size))
            at += size - 1
    for cut in rng.permutation(len(cuts)):
        start, stop = cuts[cut]
        stretch = encoder.stretch([events.event(i) for i in range(start, stop)])
        labels = [IGNORED] * len(stretch.ids)
        carried = [spans for i, spans in enumerate(stretch.targets, start) if i > start and mask[events.behavior[i]]]
        for first, last in carried:
            labels[first:last] = stretch.ids[first:last]
        if carried and targets > 0:
            rows.append({"input_ids": stretch.ids, "labels": labels})
            targets -= len(carried)
    return rows


@pytest.mark.parametrize("targets", [1, 30, 10_000])
@pytest.mark.parametrize("chat", [None, ChatTurns((0, 40, 41), (1, 42), 1)], ids=["plain", "chat"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_are_those_of_making_all_at_once(
    tokens: Any, name: str, chat: ChatTurns | None, targets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_BLOCK", 7)
    encoder, events = helpers.encoder(tokens, PromptLayout(name=name, history_length=6, chat=chat)), table()
    for seed, settings in enumerate((ATuning(), ATuning(targets="all", stretch_min=3, stretch_max=9))):
        found, expected = (make(events, encoder, settings, targets, seed) for make in (behavior_rows, eager_rows))
        assert expected
        assert list(found) == expected
        assert found.lengths.tolist() == [len(row["input_ids"]) for row in expected]
        assert found.labelled.tolist() == [sum(i != IGNORED for i in row["labels"]) for row in expected]
        assert found.targets.tolist() == [supervised_targets([row], encoder) for row in expected]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("draw", ["fixed", "fresh"])
def test_a_stage_reads_the_rows_of_making_all_at_once(tokens: Any, name: str, draw: Any) -> None:
    """Epochs, conversations among them, in whole batches: the same rows in the same places."""
    encoder, events = helpers.encoder(tokens, PromptLayout(name=name, history_length=6)), table()
    stage = ATuning(
        batch_size=4, epochs=2, max_targets=40, draw=draw, aux_ratio=0.5, aux_max_loss_share=None, stretch_max=9
    )
    recipe = Recipe(seed=5, layout=LayoutConfig(name=name), a_tuning=stage)
    conversations, ordered, eager = generated_conversations(events.candidates.labels, 5), [], []
    for epoch in range(2):
        seed = 5 + 1000 * epoch * (draw == "fresh")
        rows = eager_rows(events, encoder, stage, 40, seed)
        longest = max(len(row["input_ids"]) for row in rows)
        rows += Conversations(conversations, tokens).sample(round(0.5 * len(rows)), longest, seed)
        eager.append(rows)
        ordered += batched(rows, [len(row["input_ids"]) for row in rows], 4, epoch, by_length=True)
    epochs, counts = a_tuning_rows(events, encoder, tokens, recipe)
    assert counts["sequences_per_epoch"] == len(eager[0])
    assert counts["conversations_per_epoch"] > 0
    assert counts["tokens_per_epoch"] == sum(len(row["input_ids"]) for rows in eager for row in rows) // 2
    data = joined([OrderedRows(rows, batch_order(rows.lengths, 4, i, True)) for i, rows in enumerate(epochs)])
    assert [data[i] for i in range(len(data))] == ordered
    labelled = [[sum(label != IGNORED for label in row["labels"]) for row in rows] for rows in eager]
    talk = sum(sum(rows[-counts_of(stage, len(rows)) :]) for rows in labelled)
    assert counts["conversations_loss_share"] == pytest.approx(talk / sum(map(sum, labelled)), abs=1e-4)


def counts_of(stage: ATuning, rows: int) -> int:
    """Conversations at the end of an epoch's rows, `rows` in all."""
    return next(extra for extra in range(rows) if extra == round(stage.aux_ratio * (rows - extra)))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_conversations_take_no_more_of_the_loss_than_allowed(tokens: Any, name: str, share: float) -> None:
    encoder, events = helpers.encoder(tokens, PromptLayout(name=name, history_length=6)), table()
    stage = ATuning(epochs=1, aux_ratio=2.0, aux_max_loss_share=share)
    [rows], counts = a_tuning_rows(events, encoder, tokens, Recipe(layout=LayoutConfig(name=name), a_tuning=stage))
    assert 0 < counts["conversations_loss_share"] <= share
    without = a_tuning_rows(
        events, encoder, tokens, Recipe(layout=LayoutConfig(name=name), a_tuning=ATuning(epochs=1, aux_ratio=0))
    )
    talk = int(rows.labelled.sum()) - int(without[0][0].labelled.sum())
    assert talk / int(rows.labelled.sum()) == pytest.approx(counts["conversations_loss_share"], abs=1e-4)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_pool_keeps_to_the_sample_that_was_trained_on(tokens: Any, name: str) -> None:
    encoder, events = helpers.encoder(tokens, PromptLayout(name=name, history_length=6)), table()
    stage = ATuning(max_targets=30, stretch_max=9)
    recipe = Recipe(layout=LayoutConfig(name=name), a_tuning=stage)
    rows = behavior_rows(events, encoder, stage, stage.max_targets, recipe.seed)
    pool = pool_windows(events, encoder, recipe)
    assert rows.drawn[pool].all()
    assert set(pool) == set(np.flatnonzero(rows.drawn)) & set(eligible(events, 6))
    fresh = recipe.model_copy(update={"a_tuning": stage.model_copy(update={"draw": "fresh"})})
    assert len(pool_windows(events, encoder, fresh)) == len(eligible(events, 6)) > len(pool)


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_row_is_encoded_before_it_is_asked_for(tokens: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    for method in ("prompt_ids", "stretch"):
        whole = getattr(PromptEncoder, method)

        def counting(self: PromptEncoder, *args: Any, whole: Any = whole) -> Any:
            encoded.append(args)
            return whole(self, *args)

        monkeypatch.setattr(PromptEncoder, method, counting)
    encoder, events = helpers.encoder(tokens, PromptLayout(name=name, history_length=6)), table()
    stage = ATuning(batch_size=4, epochs=2, aux_ratio=0)
    epochs, _ = a_tuning_rows(events, encoder, tokens, Recipe(layout=LayoutConfig(name=name), a_tuning=stage))
    data = joined([OrderedRows(rows, batch_order(rows.lengths, 4, 0, True)) for rows in epochs])
    assert len(data) > 8
    assert encoded == []
    for row in (3, 0, 3):
        assert data[row]["input_ids"]
    assert len(encoded) == 3


class Watched(RowList):
    """Rows that remember which of them were read."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__(rows)
        self.seen: list[int] = []

    def read(self, index: int) -> Row:
        self.seen.append(index)
        return super().read(index)


def test_training_reads_a_row_when_its_batch_comes(tokens: Any, tmp_path: Path) -> None:
    rows = list(behavior_rows(table(), helpers.encoder(tokens), ATuning(stretch_max=4), 10_000, 0))
    train, held_out = Watched(rows), Watched(rows[:3])
    recipe = Recipe(lora=LoraSettings(rank=4), a_tuning=ATuning(batch_size=4, patience=9))
    assert len(train) > 24
    tuning = Tuning(recipe, "a_tuning", 2, 4, tmp_path, tmp_path / "logs")
    train_sft(helpers.model(tokens, spread=1.0), tokens, joined([train]), joined([held_out]), tuning)
    # The first row once more, for TRL's look at it; at most one batch is made ahead.
    assert train.seen[0] == 0
    assert train.seen[1:17] == list(range(16))
    assert max(train.seen) < 20
    assert held_out.seen == [0, *[0, 1, 2] * 2]


def test_rows_end() -> None:
    rows: Rows = RowList([{"input_ids": [i], "labels": [i]} for i in range(3)])
    both = joined([rows, OrderedRows(rows, [2, 0, 0])])
    assert [row["input_ids"] for row in both] == [[0], [1], [2], [2], [0], [0]]
    for index in (6, -1):
        with pytest.raises(IndexError):
            both[index]
