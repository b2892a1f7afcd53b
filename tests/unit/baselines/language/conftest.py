"""Twenty users who go round in circles, and a small language model that has never heard of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_behavior.baselines.language.backbone import Language
from edge_behavior.baselines.language.rival import Collaborative
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.kept import LabelSource
from edge_behavior.baselines.system import Budget
from edge_behavior.core.license import License
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import EventTable
from edge_behavior.train.recipe import Recipe, parse_recipe
from tests import helpers
from tests.helpers import LABELS, event_table

LENGTH = 5
RATE, RANK = 1e-2, 16
# SASRec in the systems of a test: the same architecture, a few steps.
SASREC = SequenceConfig(hidden=16, layers=1, heads=2, least_steps=40, eval_steps=20, batch_size=8, dropout=0.0)


class Users:
    """Stands in for a dataset: its three parts are the same twenty users, each going round a circle.

    Args:
        users: How many.
        both: Every second one goes round the other way.
    """

    path, fingerprint, has_places = Path("users"), "users", True

    def __init__(self, users: int = 20, both: bool = False) -> None:
        six = LABELS[:6]
        turns = [six[i % 6 :] + six[: i % 6] for i in range(users)]
        self.table = event_table([(turn[::-1] if both and i % 2 else turn) * 2 for i, turn in enumerate(turns)])
        self.candidates = self.table.candidates

    def events(self, split: str) -> EventTable:
        return self.table


@pytest.fixture
def users() -> Any:
    return Users()


@cache
def tokens(layout: str) -> Any:
    return helpers.tokenizer(layout=PromptLayout(name=layout))


def recipe(epochs: float = 1, **fields: Any) -> Recipe:
    """A recipe of few steps: one epoch of the twenty users has about 200 targets."""
    stage = {"epochs": epochs, "batch_size": 8, "learning_rate": RATE, "patience": 99, "warmup_ratio": 0.0}
    layout = {"name": fields.pop("layout", "stream"), "history_length": LENGTH}
    # A short static part: steps take a tenth of the time.
    layout |= {"task": "Next.", "role": "User.", "list_candidates": layout["name"] == "instruct"}
    held = {"layout": layout, "a_tuning": {**stage, **fields}, "lora": {"rank": RANK, "alpha": RANK}}
    return parse_recipe({**held, "report_to": [], "threads": 1}, "test")


def backbone(layout: str = "stream") -> Any:
    """A random model whose tied embeddings are large enough that the frozen output layer can be sure of a token."""
    made = helpers.model(tokens(layout), spread=1.0)
    with torch.no_grad():
        made.get_input_embeddings().weight.mul_(10)
    return made


def language(epochs: float = 1, model: Callable[[], Any] | None = None, **fields: Any) -> Language:
    """A small random language model over the users' labels."""
    held = recipe(epochs, **fields)
    own = tokens(held.layout.name)
    encoder = helpers.encoder(own, held.layout.layout(True, None))
    source = LabelSource("random", License.stated("llama3.2"))
    return Language(held, own, encoder, model or (lambda: backbone(held.layout.name)), "random", source)


def budget(folder: Path, targets: int = 0, seed: int = 0) -> Budget:
    return Budget(targets, 60, seed, folder)


def made(kind: Any, held: Language, **fields: Any) -> Any:
    """A system whose SASRec, if it has one, is small."""
    small = {"sasrec": SASREC} if issubclass(kind, Collaborative) else {}
    return kind(held, **{**small, **fields})
