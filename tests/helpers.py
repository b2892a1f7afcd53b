"""Small tables, models and datasets made on the spot, shared by tests of several packages."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime, timedelta
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2ForCausalLM

from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import EventTable
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.train.recipe import BackboneConfig
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.standin.everyday import EverydayText
from edge_behavior.train.standin.model import architecture, document_text, train_tokenizer

# Prefixes of each other, shared first tokens, punctuation, accents.
LABELS = [
    "Video",
    "Video Call",
    "Video Call Group",
    "Bar",
    "Bar (Private)",
    "Café",
    "Cafe Noir",
    "Home / Office",
    "TV; Radio",
]


def begin(run: RunFolder, **fields: Any) -> None:
    """Write the run.json of a run that was begun, with other `fields` where given."""
    candidates = [{"label": label, "count": 1} for label in LABELS]
    backbone = {"path": "backbone", "standin": True}
    run.update(**{"backbone": backbone, "candidates": candidates, "layout": PromptLayout().to_dict(), **fields})


def tokenizer(labels: list[str] = LABELS, layout: PromptLayout | None = None, size: int = 600) -> Any:
    """A tokenizer of the caller's own: a copy of what was trained once."""
    return copy.deepcopy(_trained(tuple(labels), layout or PromptLayout(), size))


@cache
def _trained(labels: tuple[str, ...], layout: PromptLayout, size: int) -> Any:
    documents = islice(EverydayText(list(labels), ["DK", "AB"], 0).documents(), 300)
    return train_tokenizer((document_text(d, layout) for d in documents), size)


def model(tokens: Any, seed: int = 0, hidden: int = 64, layers: int = 2, spread: float = 3.0) -> Qwen2ForCausalLM:
    """A random model whose logits differ enough between tokens to rank candidates."""
    torch.manual_seed(seed)
    made = Qwen2ForCausalLM(
        architecture(BackboneConfig(hidden_size=hidden, layers=layers, intermediate_size=96), tokens)
    )
    made.train(False)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(spread)
    return made


def diary(length: int, seed: int = 0, labels: list[str] = LABELS) -> list[BehaviorEvent]:
    return EverydayText(labels, ["DK", "AB"], seed).diary(length)


def encoder(tokens: Any, layout: PromptLayout | None = None, labels: list[str] = LABELS) -> PromptEncoder:
    return encoder_for(tokens, layout or PromptLayout(), CandidateSet.of(labels))


def event_table(users: list[list[str]], labels: list[str] = LABELS, counts: list[int] | None = None) -> EventTable:
    """A table of users given by their behaviors; hours and places follow from the position."""
    flat = [label for user in users for label in user]
    code = {label: i for i, label in enumerate(labels)}
    start = datetime(2024, 1, 1)
    return EventTable(
        user_offsets=np.cumsum([0, *(len(user) for user in users)]).astype(np.int64),
        time=np.array(
            [start + timedelta(hours=3 * i) for user in users for i in range(len(user))], dtype="datetime64[s]"
        ),
        place=np.array([i % 2 for user in users for i in range(len(user))], dtype=np.int32),
        behavior=np.array([code[label] for label in flat], dtype=np.int32),
        places=["DK", "AB"],
        candidates=CandidateSet.of(labels, counts or [flat.count(label) for label in labels]),
    )


def brute_force(hf_model: Any, prompt: list[int], path: list[int]) -> float:
    """Log-probability of one label by its own forward pass: the oracle of every scorer."""
    with torch.no_grad():
        rows = torch.log_softmax(hf_model(input_ids=torch.tensor([prompt + path])).logits[0].double(), -1)
    return float(sum(rows[len(prompt) - 1 + k, token] for k, token in enumerate(path)))


def few_windows(folder: Path) -> Path:
    """An export profile whose gate takes its steps on a few windows: random layers are no oracle of what bits cost."""
    path = folder / "few.yaml"
    path.write_text(
        "importance: {prompts: 2}\nparity: {windows: 4, per_behavior: 0, enforce: false}\nrecover: {mode: 'off'}\n"
    )
    return path


def profile(quant: str = "q4", **fields: Any) -> ExportProfile:
    """A quick export whose parity is measured on few questions and not enforced: random models are no oracle."""
    few = {"windows": 6, "per_behavior": 0, "enforce": False}
    return ExportProfile(quant=quant, **{"parity": few, "importance": {"prompts": 2}, **fields})


def write_edited(source: Path, manifest: Manifest, out: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """A bundle whose manifest's JSON was edited; its hash is of the edited text."""

    class Edited(Manifest):
        def to_json(self) -> str:
            held = json.loads(super().to_json())
            edit(held)
            return json.dumps(held)

    write_bundle(source, Edited(**{f.name: getattr(manifest, f.name) for f in fields(manifest)}), out)


def save(hf_model: Any, tokens: Any, folder: Path) -> Path:
    hf_model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
