"""Training never holds logits of whole sequences, and batches without padding learn the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config, Qwen2ForCausalLM

from edge_behavior.train.recipe import ATuning, BTuning, LoraSettings, Recipe
from edge_behavior.train.rows.lazy import IGNORED, joined
from edge_behavior.train.stages.dpo import train_dpo
from edge_behavior.train.stages.sft import train_sft
from edge_behavior.train.stages.tuning import Tuning
from edge_behavior.train.trainer import label_head
from edge_behavior.train.trainer.lora import lora_config
from tests import helpers

VOCABULARY = 30_011  # a prime, so that no other size is taken for it


class Largest(TorchDispatchMode):
    """Elements of the largest tensor with one row or column per token of the vocabulary, weights not counted."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self._hidden, self.elements = hidden, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and VOCABULARY in leaf.shape and self._hidden not in leaf.shape:
                self.elements = max(self.elements, leaf.numel())
        return out


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


def wide_model() -> Any:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, tie_word_embeddings=True,
        )
    )  # fmt: skip


def sft_peak(tokens: Any, length: int, folder: Path) -> int:
    ids = [1 + i % 500 for i in range(length)]
    row = {"input_ids": ids, "labels": [IGNORED] * (length - 6) + ids[-6:]}
    recipe = Recipe(lora=LoraSettings(rank=4), a_tuning=ATuning(batch_size=2))
    with Largest(32) as largest:
        tuning = Tuning(recipe, "a_tuning", 1, 1, folder, folder / "logs")
        train_sft(wide_model(), tokens, joined([[row, row]]), joined([[row]]), tuning)
    return largest.elements


def dpo_peak(tokens: Any, length: int, folder: Path) -> int:
    prompt = [1 + i % 500 for i in range(length)]
    row: Any = {
        "prompt_ids": prompt, "chosen_ids": [5, 6, 7], "rejected_ids": [8, 9],
        "ref_chosen_logps": -9.0, "ref_rejected_logps": -9.0,
    }  # fmt: skip
    recipe = Recipe(b_tuning=BTuning(batch_size=2))
    model = get_peft_model(wide_model(), lora_config(LoraSettings(rank=4)))
    with Largest(32) as largest:
        train_dpo(model, tokens, [row, row], Tuning(recipe, "b_tuning", 1, 1, folder, folder / "logs"))
    return largest.elements


@pytest.mark.parametrize("peak", [sft_peak, dpo_peak])
def test_no_memory_grows_with_vocabulary_times_sequence(
    peak: Any, tokens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits come in tiles of a few rows (two here) and no more."""
    monkeypatch.setattr(label_head, "TILE", 2 * VOCABULARY)
    short, long = peak(tokens, 200, tmp_path / "a"), peak(tokens, 600, tmp_path / "b")
    assert short == long == 2 * VOCABULARY


def test_padding_free_and_checkpointing_change_nothing(tokens: Any, tmp_path: Path) -> None:
    encoder = helpers.encoder(tokens)
    rows = []
    for seed in range(8):
        stretch = encoder.stretch(helpers.diary(3 + seed, seed))
        labels = [IGNORED] * len(stretch.ids)
        for a, b in stretch.targets[1:]:
            labels[a:b] = stretch.ids[a:b]
        rows.append({"input_ids": stretch.ids, "labels": labels})

    def losses(**settings: Any) -> list[float]:
        stage = ATuning(batch_size=8, learning_rate=3e-3, **settings)
        recipe = Recipe(lora=LoraSettings(rank=4), a_tuning=stage)
        folder = tmp_path / "-".join(settings)
        tuning = Tuning(recipe, "a_tuning", 1, 3, folder, folder / "logs")
        result = train_sft(helpers.model(tokens, spread=1.0), tokens, joined([rows] * 3), joined([rows]), tuning)
        assert result["padding_free"] == settings.get("padding_free", True)
        return [row["loss"] for row in result["log"] if "loss" in row]

    plain = losses(padding_free=False)
    assert plain[0] > plain[-1]
    assert losses(padding_free=True) == pytest.approx(plain, rel=1e-4)
    assert losses(gradient_checkpointing=True) == pytest.approx(plain, rel=1e-4)
    assert losses(micro_batch_size=2) == pytest.approx(plain, rel=1e-4)


def test_dpo_learns_the_same_with_and_without_padding(tokens: Any, tmp_path: Path) -> None:
    encoder = helpers.encoder(tokens)
    pairs: list[Any] = []
    for seed in range(8):
        events = helpers.diary(3 + seed, seed)
        pairs.append(
            {
                "prompt_ids": encoder.prompt_ids(events[:-1], events[-1].time, events[-1].place),
                "chosen_ids": encoder.label_ids("Video Call"), "rejected_ids": encoder.label_ids("Video"),
                "ref_chosen_logps": -9.0, "ref_rejected_logps": -8.0,
            }
        )  # fmt: skip

    def losses(**settings: Any) -> list[dict[str, float]]:
        recipe = Recipe(b_tuning=BTuning(batch_size=8, learning_rate=3e-3, warmup_ratio=0.0, **settings))
        torch.manual_seed(0)
        model = get_peft_model(helpers.model(tokens, spread=1.0), lora_config(LoraSettings(rank=4)))
        folder = tmp_path / "-".join(["dpo", *map(str, settings.values())])
        result = train_dpo(model, tokens, pairs * 3, Tuning(recipe, "b_tuning", 1, 3, folder, folder / "logs"))
        return [
            {key: row[key] for key in ("loss", "rewards/margins", "logps/chosen", "entropy", "mean_token_accuracy")}
            for row in result["log"]
            if "loss" in row
        ]

    padded = losses(padding_free=False)
    assert padded[0]["loss"] > padded[-1]["loss"]
    for found in (losses(), losses(micro_batch_size=2)):
        for row, expected in zip(found, padded, strict=True):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)
