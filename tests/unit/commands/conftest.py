"""What tests of several commands share: a home of their own, stand-ins for engines, and a manifest."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from types import ModuleType
from typing import Any

import pytest

from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from tests.command import invoked, live_in

LABELS = ("Video", "Video call", "Mail", "買い物")
EOS = 256
EVENTS = [
    BehaviorEvent("home", datetime(2024, 5, 1, 8), "Video"),
    BehaviorEvent("work", datetime(2024, 5, 1, 9), "Mail"),
]


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    live_in(tmp_path, monkeypatch)


@pytest.fixture
def module(monkeypatch):
    """Puts a stand-in where a command would import an engine that needs torch."""

    def put(name: str, **content: object) -> None:
        made = ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)

    return put


def run(*arguments: object) -> Any:
    """Invoke a command that succeeds."""
    result = invoked(*arguments)
    assert result.exit_code == 0, result.output
    return result


def document(*arguments: object) -> Any:
    """The one JSON document of a `--json` run."""
    return json.loads(run(*arguments, "--json").stdout)


MANIFEST = Manifest(
    created_with="edgeb test",
    candidates=CandidateSet.of(LABELS, [5, 3, 2, 1]),
    layout=PromptLayout(),
    bos_id=None,
    eos_id=EOS,
    architecture="qwen2",
    quantization="Q4_K_M",
    context_length=4096,
    base_model=BaseModelInfo("tiny", None, "00"),
)
