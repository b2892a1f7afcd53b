"""What the rivals refuse: one line that names it, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_behavior.baselines.language.a_llmrec import ALlmRec
from edge_behavior.baselines.language.alphafuse import AlphaFuse
from edge_behavior.baselines.language.collm import CoLlm
from edge_behavior.baselines.language.llm_esr import LlmEsr
from edge_behavior.baselines.language.registry import RIVALS
from edge_behavior.baselines.language.tallrec import TallRec
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.errors import EdgebError
from tests.helpers import LABELS, event_table
from tests.unit.baselines.language.conftest import LENGTH, RATE, Users, backbone, budget, language, made

TUNED = sorted(name for name, kind in RIVALS.items() if kind.tunes)


def refused(kind: Any, users: Any, folder: Path, model: Callable[[], Any] | None = None, **fields: Any) -> str:
    with pytest.raises(EdgebError) as caught:
        made(kind, language(model=model), **fields).fit(users, LENGTH, budget(folder, targets=60), RATE)
    assert "\n" not in str(caught.value)
    assert not list(folder.rglob("*.safetensors"))
    return str(caught.value)


@pytest.mark.parametrize("name", RIVALS)
def test_a_log_without_training_users(name: str, tmp_path: Path) -> None:
    found = refused(RIVALS[name], Users(0), tmp_path)
    assert "users is too small: its train part has 0 events" in found or "users has no training event" in found


@pytest.mark.parametrize("kind", [TallRec, CoLlm])
def test_a_log_of_users_with_one_event_each(kind: Any, users: Any, tmp_path: Path) -> None:
    users.table = event_table([[label] for label in LABELS])
    assert "no supervised target among these users" in refused(kind, users, tmp_path)


@pytest.mark.parametrize("name", TUNED)
def test_a_backbone_without_access_to_its_input(name: str, users: Any, tmp_path: Path) -> None:
    def closed() -> Any:
        model = backbone()
        model.get_input_embeddings = lambda: None  # type: ignore[method-assign]
        return model

    assert "type qwen2 gives no access to its input embeddings" in refused(RIVALS[name], users, tmp_path, closed)


@pytest.mark.parametrize("kind", [LlmEsr, AlphaFuse, ALlmRec])
def test_labels_that_are_the_same_text_for_the_language_model(kind: Any, users: Any, tmp_path: Path) -> None:
    def blind() -> Any:
        model = backbone()
        with torch.no_grad():
            for norm in model.get_decoder().norm.parameters():
                norm.zero_()
        return model

    assert "all labels are the same text for the backbone random" in refused(kind, users, tmp_path, blind)


@pytest.mark.parametrize("kind", [LlmEsr, AlphaFuse, ALlmRec])
def test_a_backbone_whose_states_are_no_numbers(kind: Any, users: Any, tmp_path: Path) -> None:
    def broken() -> Any:
        model = backbone()
        with torch.no_grad():
            model.get_decoder().norm.weight.fill_(torch.nan)
        return model

    found = refused(kind, users, tmp_path, broken)
    assert "the backbone random makes vectors of labels that are no numbers" in found


def test_a_share_that_leaves_the_labels_nothing(users: Any, tmp_path: Path) -> None:
    small = SequenceConfig(hidden=8, layers=1, heads=2)
    found = refused(AlphaFuse, users, tmp_path, config=small, null_share=0.97)
    assert "alphafuse.null_share = 0.97 leaves none of 8 dimensions to the labels" in found
