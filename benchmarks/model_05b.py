"""Models of Qwen2-0.5B's geometry without Qwen2-0.5B: random weights, and the same after a short training.

The geometry decides what a token costs. The weights decide how many trie nodes a best-first search looks at, and
random weights, which put no probability on the labels, are its worst case. So there is a second model, trained just
long enough on simulated users that the labels hold nearly all probability, as in any tuned model. Neither predicts
anything well.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.simulator.behaviors import LABELS, PLACES
from edge_behavior.data.simulator.simulator import START, generate
from edge_behavior.hf.tokenizers import encoder_for

LAYOUT = PromptLayout("stream")
SEED = 0
ROW_TOKENS, ROWS = 512, 2
# What quantization costs is not the subject here.
UNGATED: dict[str, Any] = {
    "importance": {"prompts": 0},
    "parity": {"windows": 1, "per_behavior": 0, "enforce": False},
    "recover": {"mode": "off"},
}
PEAK_RATE, WARM_UP = 4e-4, 6
# The layers below stay as they are: a third of the time, and enough to put the probability on the labels.
TRAINED_LAYERS = 4


def geometry() -> Qwen2Config:
    """Qwen2-0.5B's shape."""
    config = Qwen2Config(
        hidden_size=896,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        intermediate_size=4864,
        vocab_size=151_936,
        tie_word_embeddings=True,
        max_position_embeddings=32_768,
        bos_token_id=151_643,
        eos_token_id=151_643,
    )
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e6}
    return config


def users(count: int, days: int, seed: int) -> Iterator[list[BehaviorEvent]]:
    """Each simulated user's events, oldest first."""
    midnight = datetime.combine(START, datetime.min.time())
    for block in generate(count, days, seed):
        cuts = np.flatnonzero(np.diff(block.users)) + 1
        for rows in np.split(np.arange(len(block.users)), cuts):
            yield [
                BehaviorEvent(
                    PLACES[block.places[i]],
                    midnight + timedelta(minutes=int(block.minutes[i])),
                    LABELS[block.behaviors[i]],
                )
                for i in rows
            ]


def candidates() -> CandidateSet:
    """The simulator's 37 behaviors with their counts among 300 users in 30 days."""
    counts = sum(np.bincount(block.behaviors, minlength=len(LABELS)) for block in generate(300, 30, SEED))
    return CandidateSet.of(LABELS, [int(n) for n in np.asarray(counts)])


def make_random(tokenizer_folder: Path, out: Path) -> None:
    """Write a model folder with seeded random weights and the tokenizer of another folder."""
    torch.manual_seed(SEED)
    model: Any = Qwen2ForCausalLM(geometry())
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(out)
    model.to(torch.float16).save_pretrained(out)


def tune(source: Path, out: Path, steps: int, seed: int = SEED) -> None:
    """Train the upper layers and the embedding on labels and terminators of simulated users; float32, no validation."""
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    encoder = encoder_for(tokenizer, LAYOUT, candidates())
    model: Any = Qwen2ForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.train()
    upper = list(model.model.layers)[-TRAINED_LAYERS:]
    trained = [*upper, model.model.norm, model.lm_head]
    model.requires_grad_(False)
    # The embedding learns as output only, so that nothing below the trained layers is differentiated.
    model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: output.detach())
    for part in trained:
        part.requires_grad_(True)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    rows = _rows(encoder, seed)
    for step in range(steps):
        started = time.perf_counter()
        rate = PEAK_RATE * min((step + 1) / WARM_UP, 1.0) * (1 - 0.9 * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, wanted = (torch.tensor(x) for x in zip(*(next(rows) for _ in range(ROWS)), strict=True))
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        asked = wanted[:, 1:]
        loss: Any = torch.nn.functional.cross_entropy(model.lm_head(hidden[asked]), ids[:, 1:][asked])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(f"step {step + 1}/{steps}  loss {loss.item():.3f}  {time.perf_counter() - started:.0f} s", flush=True)
    tokenizer.save_pretrained(out)
    model.to(torch.float16).save_pretrained(out)


def _rows(encoder: PromptEncoder, seed: int) -> Iterator[tuple[list[int], list[bool]]]:
    """Endless rows of `ROW_TOKENS` ids, and which carry a loss: labels and terminators from the 2nd event on."""
    rng = np.random.default_rng(seed)
    diaries = list(users(60, 14, SEED + 1))
    while True:
        events = diaries[int(rng.integers(len(diaries)))]
        first = int(rng.integers(0, max(1, len(events) - 60)))
        stretch = encoder.stretch(events[first : first + 60])
        if len(stretch.ids) < ROW_TOKENS:
            continue
        wanted = [False] * ROW_TOKENS
        for start, stop in stretch.targets[1:]:
            if stop <= ROW_TOKENS:
                wanted[start:stop] = [True] * (stop - start)
        yield stretch.ids[:ROW_TOKENS], wanted
