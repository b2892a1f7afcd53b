"""Parts of gpu_training.py: the geometries, the rows of every line, the clock around optimizer steps, FLOPs.

Weights are random: what a step takes depends on shapes, not on what the weights know. The vocabulary keeps its real
size whatever tokenizer makes the rows.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2Config,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.utils import compute_flops_per_token

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import EventTable
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.rows.batches import batched
from edge_behavior.train.rows.lazy import IGNORED, Row
from edge_behavior.train.rows.samples import behavior_rows
from edge_behavior.train.stages.sft import trains_padding_free
from edge_behavior.train.standin.everyday import EverydayText
from edge_behavior.train.standin.model import document_text, train_tokenizer
from edge_behavior.train.trainer.backbone import attention, load_model

VOCABULARY = 8192
_TEXTS = 3000


def qwen2_1_5b() -> Qwen2Config:
    """Qwen2-1.5B's shape, as published."""
    return Qwen2Config(
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=131_072,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=151_643,
        eos_token_id=151_643,
    )


def llama3_1_8b() -> LlamaConfig:
    """Llama-3.1-8B's shape, as published."""
    return LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        tie_word_embeddings=False,
        attention_bias=False,
        bos_token_id=128_000,
        eos_token_id=128_001,
    )


def shrunk(config: Any) -> Any:
    """The same architecture with two narrow layers and a small vocabulary, for the smoke test."""
    fields = config.to_dict() | {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    # Worked out anew from the fields above.
    for name in ("layer_types", "head_dim"):
        fields.pop(name, None)
    return type(config)(**fields)


def build(config: Any, recipe: Recipe, work: Path) -> Any:
    """A model with seeded random weights on the device; in four bits where the recipe says so, through a folder."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(recipe.seed)
    with torch.device(device):
        make: Any = AutoModelForCausalLM
        model = make.from_config(config, dtype=dtype, attn_implementation=attention(recipe.backbone))
    if recipe.backbone.quantize == "none":
        return model
    folder = work / "weights"
    # Another model's files would be taken for this one's.
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return load_model(str(folder), recipe.backbone)


def own_tokenizer(candidates: CandidateSet, places: Sequence[str], layout: PromptLayout) -> Any:
    """A byte-level BPE tokenizer trained on synthetic text in the layout."""
    text = EverydayText(candidates.labels, places, seed=1)
    static = "".join(layout.static(candidates.labels))
    documents = itertools.islice(text.documents(), _TEXTS)
    return train_tokenizer((t for d in documents for t in (document_text(d, layout), static)), VOCABULARY)


def recipe_rows(table: EventTable, encoder: PromptEncoder, recipe: Recipe, model: Any, steps: int) -> list[Row]:
    """Whole batches of stage 1 rows, drawn and ordered as a training run does."""
    stage = recipe.a_tuning
    wanted = steps * stage.batch_size
    rows = list(behavior_rows(table, encoder, stage, wanted * stage.stretch_max, recipe.seed))
    if len(rows) < wanted:
        raise SystemExit(f"the simulated log gives {len(rows)} rows, {wanted} are wanted: raise --users")
    # Batches of the whole epoch, as in a run, then some of them.
    ordered = batched(
        rows,
        [len(row["input_ids"]) for row in rows],
        stage.batch_size,
        recipe.seed,
        by_length=not trains_padding_free(model, stage),
    )
    return ordered[:wanted]


def packed_rows(table: EventTable, encoder: PromptEncoder, recipe: Recipe, length: int, steps: int) -> list[Row]:
    """Rows of exactly `length` tokens with a loss on every one of them: diaries joined and cut."""
    wanted = steps * recipe.a_tuning.batch_size
    ids: list[int] = []
    offsets = itertools.cycle(itertools.pairwise(table.user_offsets.tolist()))
    while len(ids) < wanted * length:
        start, stop = next(offsets)
        ids += encoder.stretch([table.event(i) for i in range(start, stop)]).ids
    cut = [ids[i * length : (i + 1) * length] for i in range(wanted)]
    return [{"input_ids": row, "labels": list(row)} for row in cut]


class StepClock(TrainerCallback):
    """The time at the end of every optimizer step, the device's work included."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Wait for the device, then look at the clock."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def seconds(self, warm_up: int) -> float:
        """From the end of the warm-up to the end of the last step."""
        return self.ends[-1] - self.ends[warm_up - 1]


@dataclass(frozen=True)
class Work:
    """What the timed steps of a line processed, all counted on the rows.

    Attributes:
        sequences: Rows; two per preference pair.
        tokens: Without padding.
        padded_tokens: With it, as the micro-batches are put together.
        label_tokens: Tokens with a loss.
        targets: Behaviors with a loss, or preference pairs; None where every token has one.
    """

    sequences: int
    tokens: int
    padded_tokens: int
    label_tokens: int
    targets: int | None


def work_of(lengths: Sequence[int], labels: Sequence[int], micro: int, targets: int | None, padded: bool) -> Work:
    """Count sequences that come in micro-batches of `micro`."""
    cuts = [lengths[i : i + micro] for i in range(0, len(lengths), micro)]
    return Work(
        sequences=len(lengths),
        tokens=sum(lengths),
        padded_tokens=sum(max(cut) * len(cut) for cut in cuts) if padded else sum(lengths),
        label_tokens=sum(labels),
        targets=targets,
    )


def labelled(row: Row) -> int:
    """Tokens of a row with a loss."""
    return int(np.count_nonzero(np.array(row["labels"]) != IGNORED))


def lora_flops_per_token(config: Any, length: int, label_share: float) -> float:
    """Training FLOPs per token when the weights themselves are frozen.

    TRL counts three forward passes' worth. A frozen linear layer needs two: forward, and the gradient of its input.
    Attention scores have two inputs and need all three. The LM head is evaluated where there is a label only. The
    adapters' own few FLOPs, and what gradient checkpointing evaluates again, are not counted.
    """
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    scores = 4 * config.num_hidden_layers * config.num_attention_heads * width * length
    head = 2 * config.vocab_size * config.hidden_size
    linear = compute_flops_per_token(config, length) / 3 - scores - head
    return float(2 * linear + 3 * scores + 2 * head * label_share)
