"""DPO with a mixed SFT term: the loss is the one computed by hand from plain forward passes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from edge_behavior.train.recipe import BTuning, LoraSettings, Recipe
from edge_behavior.train.stages.dpo import train_dpo
from edge_behavior.train.stages.tuning import Tuning
from edge_behavior.train.trainer.lora import lora_config
from tests import helpers

BETA, PAIRS = 0.3, 8
# The answers differ in length, so that a mean over tokens would not be one over pairs.
CHOSEN, REJECTED = ("Bar", "Video Call Group", "Home / Office", "Café"), ("Video", "Bar (Private)", "Bar", "TV; Radio")


def tuned(tokens: Any) -> Any:
    model = get_peft_model(helpers.model(tokens, spread=1.0), lora_config(LoraSettings(rank=4)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model.eval()


def made(tokens: Any, model: Any) -> tuple[list[dict[str, Any]], list[float], list[float]]:
    """Pairs whose reference is a little off the model; each pair's DPO loss, and its chosen answer's -log p."""
    encoder, pairs, losses, surprises = helpers.encoder(tokens), [], [], []
    for i in range(PAIRS):
        h = helpers.diary(6, i)
        prompt = encoder.prompt_ids(h[:-1], h[-1].time, h[-1].place)
        chosen, rejected = encoder.label_ids(CHOSEN[i % 4]), encoder.label_ids(REJECTED[i % 4])
        good, bad = (helpers.brute_force(model, prompt, answer) for answer in (chosen, rejected))
        pairs.append(
            {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected,
             "ref_chosen_logps": good - 0.4 * i, "ref_rejected_logps": bad + 0.1}
        )  # fmt: skip
        losses.append(math.log1p(math.exp(-BETA * (0.4 * i + 0.1))))
        surprises.append(-good)
    return pairs, losses, surprises


def first_loss(tokens: Any, folder: Path, weight: float, micro: int) -> tuple[dict[str, Any], float, float]:
    model = tuned(tokens)
    pairs, losses, surprises = made(tokens, model)
    stage = BTuning(
        batch_size=PAIRS, micro_batch_size=micro, dpo_beta=BETA, sft_weight=weight, learning_rate=1e-9,
        min_learning_rate=1e-9,
    )  # fmt: skip
    result = train_dpo(model, tokens, pairs, Tuning(Recipe(b_tuning=stage), "b_tuning", 1, 1, folder / "b", folder))
    row = next(row for row in result["log"] if "loss" in row)
    return row, sum(losses) / PAIRS, sum(surprises) / PAIRS


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


@pytest.mark.parametrize("micro", [PAIRS, 2])
def test_the_loss_is_dpos_and_the_weighted_surprise_of_the_truth(tokens: Any, tmp_path: Path, micro: int) -> None:
    row, dpo, surprise = first_loss(tokens, tmp_path, 0.25, micro)
    assert surprise > 1
    assert row["loss"] == pytest.approx(dpo + 0.25 * surprise, rel=1e-4)
    assert -row["logps/chosen"] == pytest.approx(surprise, rel=1e-4)


def test_without_a_weight_it_is_dpos_alone(tokens: Any, tmp_path: Path) -> None:
    row, dpo, _ = first_loss(tokens, tmp_path, 0.0, PAIRS)
    assert row["loss"] == pytest.approx(dpo, rel=1e-4)


def test_the_term_is_what_moves_the_weights(tokens: Any, tmp_path: Path) -> None:
    """From a reference at which every pair is won, DPO hardly moves; the term goes on raising the truth."""
    rises = []
    for weight in (0.0, 1.0):
        model = tuned(tokens)
        pairs, *_ = made(tokens, model)
        for pair in pairs:
            pair |= {"ref_chosen_logps": -1e3, "ref_rejected_logps": 1e3}
        stage = BTuning(batch_size=PAIRS, dpo_beta=BETA, sft_weight=weight, learning_rate=1e-2, warmup_ratio=0.0)
        before = helpers.brute_force(model, pairs[0]["prompt_ids"], pairs[0]["chosen_ids"])
        folder = tmp_path / str(weight)
        train_dpo(model, tokens, pairs * 4, Tuning(Recipe(b_tuning=stage), "b_tuning", 1, 4, folder / "b", folder))
        rises.append(helpers.brute_force(model.eval(), pairs[0]["prompt_ids"], pairs[0]["chosen_ids"]) - before)
    assert abs(rises[0]) < 0.01
    assert rises[1] > 0.2
