"""Weights of labels: what they are, and that the trained loss is the one computed by hand from plain logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from edge_behavior.core.prompts import LAYOUTS, PromptLayout
from edge_behavior.train.recipe import ATuning, LoraSettings, Recipe
from edge_behavior.train.rows.class_weights import class_weights
from edge_behavior.train.rows.lazy import IGNORED, NO_CLASS, Row, joined
from edge_behavior.train.rows.samples import behavior_rows, target_mask
from edge_behavior.train.stages.sft import train_sft
from edge_behavior.train.stages.tuning import Tuning
from edge_behavior.train.trainer.trl_internals import weighing
from tests import helpers

COUNTS = [900, 60, 3, 400, 20, 30, 2, 100, 1]
BATCH = 8


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


def table() -> Any:
    users = [[event.behavior for event in helpers.diary(30, seed)] for seed in range(5)]
    return helpers.event_table(users, counts=COUNTS)


@pytest.mark.parametrize("targets", ["all", "anchors", "tail"])
@pytest.mark.parametrize(("rule", "power"), [("inverse", 1.0), ("sqrt_inverse", 0.5)])
def test_they_go_by_the_share_and_have_mean_1(rule: Any, power: float, targets: Any) -> None:
    settings = ATuning(class_weights=rule, targets=targets)
    weights, events = class_weights(settings, table()), table()
    assert weights is not None
    mask, counts = target_mask(settings, events), np.array(COUNTS)
    assert np.average(weights[mask], weights=counts[mask]) == pytest.approx(1)
    assert not weights[~mask].any()
    first, *others = np.flatnonzero(mask)
    for other in others:
        expected = ((counts[first] + 1) / (counts[other] + 1)) ** power
        assert weights[other] / weights[first] == pytest.approx(expected)


def test_none_are_none() -> None:
    assert class_weights(ATuning(), table()) is None


def test_a_label_that_training_never_shows_has_a_finite_one() -> None:
    events = helpers.event_table([["Video", "Bar"] * 9], counts=[9, 9, 0, 0, 0, 0, 0, 0, 0])
    weights = class_weights(ATuning(class_weights="inverse", targets="all"), events)
    assert weights is not None
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_say_which_behavior_a_label_is_of(tokens: Any, name: str) -> None:
    encoder, events = helpers.encoder(tokens, PromptLayout(name, history_length=4)), table()
    settings = ATuning(targets="all", stretch_max=7)
    plain, rows = (
        list(behavior_rows(events, encoder, settings.model_copy(update={"class_weights": rule}), 60, 0))
        for rule in ("none", "inverse")
    )
    assert [{key: row[key] for key in ("input_ids", "labels")} for row in rows] == plain
    labels, seen = [encoder.label_ids(label) for label in events.candidates.labels], 0
    for row in rows:
        answers: list[tuple[int, list[int]]] = []
        for token, code, before in zip(row["labels"], row["classes"], [NO_CLASS, *row["classes"][:-1]], strict=True):
            assert (code == NO_CLASS) == (token == IGNORED)
            if code != NO_CLASS:
                if before != code or answers[-1][1] == labels[code]:
                    answers.append((code, []))
                answers[-1][1].append(token)
        seen += len(answers)
        assert all(ids == labels[code] for code, ids in answers)
    assert seen >= 60


def rows_of(tokens: Any) -> list[Row]:
    """Seven rows of events and a conversation, whose tokens are of no behavior."""
    settings = ATuning(targets="all", stretch_max=7, class_weights="inverse")
    rows = list(behavior_rows(table(), helpers.encoder(tokens), settings, 10_000, 0))[: BATCH - 1]
    talk = rows[0]["input_ids"][:9]
    return [*rows, {"input_ids": talk, "labels": [IGNORED] * 6 + talk[6:]}]


def by_hand(model: Any, rows: list[Row], weights: np.ndarray) -> float:
    """Weighted sum of -log p over the number of labels, from the logits of one row at a time."""
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            log_probs = torch.log_softmax(model(input_ids=torch.tensor([row["input_ids"]])).logits[0], -1)
            for i, label in enumerate(row["labels"]):
                if label != IGNORED:
                    code = row["classes"][i] if "classes" in row else NO_CLASS
                    total -= float(log_probs[i - 1, label]) * (1.0 if code == NO_CLASS else weights[code])
                    count += 1
    return total / count


def trained(tokens: Any, folder: Path, rows: list[Row], weights: np.ndarray | None, **changes: Any) -> dict[str, Any]:
    stage = ATuning(**{"batch_size": BATCH, "learning_rate": 1e-9, "min_learning_rate": 1e-9, **changes})
    recipe = Recipe(lora=LoraSettings(rank=4), a_tuning=stage)
    tuning = Tuning(recipe, "a_tuning", 1, 1, folder / "a", folder)
    model = helpers.model(tokens, spread=1.0)
    return train_sft(model, tokens, joined([rows]), joined([rows]), tuning, class_weights=weights)


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("micro", [BATCH, 2])
def test_the_loss_is_the_weighted_one(tokens: Any, tmp_path: Path, micro: int, padding_free: bool) -> None:
    """In one pass or accumulated over four of different token counts, with padding and without."""
    rows = rows_of(tokens)
    weights = class_weights(ATuning(targets="all", class_weights="inverse"), table())
    assert weights is not None
    model = helpers.model(tokens, spread=1.0)
    expected, plain = by_hand(model, rows, weights), by_hand(model, rows, np.ones(len(weights)))
    assert abs(expected / plain - 1) > 0.1
    result = trained(tokens, tmp_path, rows, weights, micro_batch_size=micro, padding_free=padding_free)
    assert result["train_loss"] == pytest.approx(expected, rel=1e-4)
    if micro == BATCH:
        assert result["best_validation_loss"] == pytest.approx(expected, rel=1e-4)


def adapter(folder: Path) -> bytes:
    return (folder / "a" / "adapter" / "adapter_model.safetensors").read_bytes()


def test_weights_of_one_change_no_bit_and_others_change_the_weights_learned(tokens: Any, tmp_path: Path) -> None:
    rows, ones = rows_of(tokens), np.ones(len(COUNTS))
    bare = [{key: row[key] for key in ("input_ids", "labels")} for row in rows]
    runs = {"none": (bare, None), "ones": (rows, ones), "twos": (rows, 2 * ones)}
    losses = {}
    for name, (data, weights) in runs.items():
        losses[name] = trained(tokens, tmp_path / name, data, weights, learning_rate=1e-2, warmup_ratio=0.0)
    assert losses["none"]["train_loss"] == losses["ones"]["train_loss"]
    assert adapter(tmp_path / "none") == adapter(tmp_path / "ones") != adapter(tmp_path / "twos")


def test_batches_laid_end_to_end_for_flash_attention_have_their_weights_in_place(tokens: Any) -> None:
    """TRL's own padding-free batches, which a CPU does not train on."""
    rows, weights = rows_of(tokens), np.arange(1.0, 1 + len(COUNTS))
    seen: dict[bool, list[float]] = {}
    for padding_free in (True, False):
        collate = DataCollatorForLanguageModeling(tokens.pad_token_id, padding_free=padding_free)
        batch = weighing(collate, weights)(rows)
        assert batch["loss_weights"].shape == batch["labels"].shape
        seen[padding_free] = batch["loss_weights"][batch["labels"] != IGNORED].tolist()
    expected = [
        1.0 if "classes" not in row else weights[row["classes"][i]]
        for row in rows
        for i, label in enumerate(row["labels"])
        if label != IGNORED
    ]
    assert seen == {True: expected, False: expected}
