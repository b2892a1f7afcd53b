"""Training rows that list the candidates in a random order: else the same rows, and of known length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_behavior.core.prompts import LAYOUTS, ChatTurns, PromptLayout
from edge_behavior.train.recipe import ATuning, LayoutConfig, Recipe
from edge_behavior.train.rows import orders
from edge_behavior.train.rows.epochs import a_tuning_rows
from edge_behavior.train.rows.orders import Orders
from edge_behavior.train.rows.samples import behavior_rows
from tests import helpers

STAGE = ATuning(targets="all", stretch_max=5)


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


def table() -> Any:
    users = [[event.behavior for event in helpers.diary(40, seed)] for seed in range(6)]
    return helpers.event_table(users, counts=[9 - i for i in range(9)])


def listed_in(text: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The order in which a prompt lists the labels. The longest are looked for first: some are within others."""
    _, _, rest = text.partition("Candidates: " if "Candidates: " in text else "candidate set: ")
    places = {}
    for label in sorted(labels, key=len, reverse=True):
        places[label] = rest.index(label)
        rest = rest.replace(label, "#" * len(label), 1)
    return tuple(sorted(labels, key=places.__getitem__))


@pytest.mark.parametrize("chat", [None, ChatTurns((0, 40, 41), (1, 42), 1)], ids=["plain", "chat"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_are_the_same_but_for_the_list(tokens: Any, name: str, chat: ChatTurns | None) -> None:
    layout = PromptLayout(name, history_length=4, chat=chat, candidate_order="alphabetical")
    encoder, events = helpers.encoder(tokens, layout), table()
    fixed, rows = (behavior_rows(events, encoder, STAGE, 10_000, 3, shuffled) for shuffled in (False, True))
    labels, seen = events.candidates.labels, set()
    for one, other, length in zip(fixed, rows, rows.lengths, strict=True):
        assert len(other["input_ids"]) == len(other["labels"]) == length
        answers = [[i for i in row["labels"] if i >= 0] for row in (one, other)]
        assert answers[0] == answers[1]
        texts = [tokens.decode(row["input_ids"]) for row in (one, other)]
        assert sorted(texts[0]) == sorted(texts[1])
        orders_shown = [listed_in(text, labels) for text in texts]
        assert orders_shown[0] == tuple(sorted(labels))
        seen.add(orders_shown[1])
    assert len(seen) > len(rows) / 2
    # No label has a place of its own: over the orders, each stands in the middle on average.
    places = np.array([[shown.index(label) for label in labels] for shown in seen]).mean(0)
    error = np.sqrt((len(labels) ** 2 - 1) / 12 / len(seen))
    assert np.abs(places - (len(labels) - 1) / 2).max() < 4 * error


def test_orders_are_drawn_by_the_seed(tokens: Any) -> None:
    encoder, events = helpers.encoder(tokens), table()
    one, again, other = (list(behavior_rows(events, encoder, STAGE, 90, seed, True)) for seed in (1, 1, 2))
    assert one == again != other


def test_many_rows_share_a_known_number_of_orders(tokens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "SHUFFLES", 7)
    encoder = helpers.encoder(tokens)
    made = Orders(encoder, 1000, seed=0)
    assert len(made) == 7
    assert set(made.which.tolist()) == set(range(7))
    for row in (0, 1, 999):
        assert made.static[row] == len(encoder.static_for(made.of(row)))
    own = Orders(encoder, 3, seed=None)
    assert ([own.of(row) for row in range(3)], own.static.tolist()) == ([None] * 3, [len(encoder.static_ids)] * 3)


@pytest.mark.parametrize(("order", "asked"), [("frequency", False), ("alphabetical", False), ("shuffled", True)])
def test_a_recipe_asks_for_it(tokens: Any, order: Any, asked: bool) -> None:
    config = LayoutConfig(candidate_order=order)
    layout = config.layout(True, None)
    assert layout.candidate_order == ("frequency" if order == "frequency" else "alphabetical")
    encoder, events = helpers.encoder(tokens, layout), table()
    stage = STAGE.model_copy(update={"aux_ratio": 0.0, "epochs": 1})
    [rows], _ = a_tuning_rows(events, encoder, tokens, Recipe(layout=config, a_tuning=stage))
    assert list(rows) == list(behavior_rows(events, encoder, stage, stage.max_targets, 0, asked))
