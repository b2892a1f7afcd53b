"""Every recipe of a real backbone, run on a small model of its architecture; two with the real tokenizers."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from edge_behavior.train.recipe import load_recipe, recipe_names
from tests import helpers
from tests.command import edgeb_here
from tests.unit.export.conftest import SMALL_TOKENIZERS, gemma3, qwen2, qwen3, save
from tests.unit.export.conftest import llama as llama_model

Make = Callable[[Path, Path], Path]
GEOMETRY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096,
}  # fmt: skip
STEPS = [
    "method=two-stage", "a_tuning.max_targets=60", "a_tuning.epochs=1", "a_tuning.max_steps=3",
    "b_tuning.pool_per_behavior=1",
    "b_tuning.epochs=1", "b_tuning.batch_size=2", "a_tuning.batch_size=2", "a_tuning.stretch_max=5",
    "layout.history_length=4", "b_tuning.max_steps=2", "evaluation.per_user=1",
    "evaluation.per_behavior=1", "evaluation.limit=6", "evaluation.validation_targets=10", "backbone.dtype=float32",
]  # fmt: skip


def qwen(shared: Path, folder: Path) -> Path:
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(vocab_size=151_936, tie_word_embeddings=True, **GEOMETRY)).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(shared / "models" / "qwen2.5-tokenizer" / name, folder)
    return folder


def llama(shared: Path, folder: Path) -> Path:
    torch.manual_seed(0)
    rope = {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 2048,
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=128_256, bos_token_id=128_000, eos_token_id=128_001, rope_parameters=rope, **GEOMETRY
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    source = shared / "models" / "llama3-tokenizer" / "tokenizer.json.gz"
    (folder / "tokenizer.json").write_bytes(gzip.decompress(source.read_bytes()))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|begin_of_text|>",
                "eos_token": "<|end_of_text|>",
            }
        )
    )
    return folder


def small(make: Callable[..., Any], tokens: str) -> Make:
    def made(_: Path, folder: Path) -> Path:
        torch.manual_seed(0)
        tokenizer = SMALL_TOKENIZERS[tokens]()
        return save(make(len(tokenizer), max_position_embeddings=4096), tokenizer, folder)

    return made


SMALL = {
    "qwen2-1.5b": small(qwen2, "qwen2"),
    "qwen3-0.6b": small(qwen3, "qwen2"),
    "llama3.2-1b": small(llama_model, "llama3"),
    "llama3.1-8b": small(llama_model, "llama3"),
    "gemma3-270m": small(gemma3, "gemma"),
    "smollm2-135m": small(llama_model, "smollm"),
    "paper-qwen2-1.5b": small(qwen2, "qwen2"),
    "paper-llama3.1-8b": small(llama_model, "llama3"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Remembers the dataset beside it as the last one."""
    folder = tmp_path_factory.mktemp("recipes")
    log = ("data", "synth", "--users", 30, "--days", 10, "--seed", 1)
    edgeb_here(*log, "--out", folder / "data", home=folder / "home")
    return folder / "home"


def run_the_path(recipe: str, backbone: Path, home: Path, tmp_path: Path) -> None:
    # The paper's layout always lists them.
    listed = [] if load_recipe(recipe).layout.name == "instruct" else ["layout.list_candidates=false"]
    settings = [word for s in (*STEPS, *listed, f"backbone.path={backbone}") for word in ("--set", s)]
    edgeb_here("train", "--recipe", recipe, "--out", tmp_path / "run", *settings, home=home)
    how = ("--profile", helpers.few_windows(tmp_path), "--quant", "q4_0", "--no-habits", "--no-calibrate")
    edgeb_here("export", tmp_path / "run", *how, "--out", tmp_path / "m.gguf", home=home)
    history = tmp_path / "h.csv"
    history.write_text("timestamp,place,behavior\n2024-03-18T08:10,home,Short Video\n")
    document = json.loads(
        edgeb_here(
            "predict", tmp_path / "m.gguf", "--history", history, "--at", "2024-03-18T09:00", "--place", "home",
            "--top", 0, "--json",
        ).stdout
    )  # fmt: skip
    labels = json.loads((home.parent / "data" / "dataset.json").read_text())["candidates"]["labels"]
    assert sorted(p["behavior"] for p in document["predictions"]) == sorted(labels)
    assert sum(p["probability"] for p in document["predictions"]) == pytest.approx(1)
    manifest = json.loads(edgeb_here("inspect", tmp_path / "m.gguf", "--json").stdout)
    # Prompts start with BOS just where the tokenizer itself puts one.
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    first = tokenizer("a").input_ids[0]
    assert manifest["bos_id"] == (first if first == tokenizer.bos_token_id else None)
    assert str(tmp_path) not in json.dumps(manifest)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "make"), [("qwen2-1.5b", qwen), ("llama3.1-8b", llama)])
def test_recipes_with_real_tokenizers(recipe: str, make: Make, shared: Path, home: Path, tmp_path: Path) -> None:
    run_the_path(recipe, make(shared, tmp_path / "backbone"), home, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("recipe", SMALL)
def test_recipes_with_small_tokenizers(recipe: str, home: Path, tmp_path: Path) -> None:
    run_the_path(recipe, SMALL[recipe](tmp_path, tmp_path / "backbone"), home, tmp_path)


def test_every_recipe_of_a_real_backbone_is_run() -> None:
    assert set(SMALL) == {name for name in recipe_names() if load_recipe(name).backbone.path}
