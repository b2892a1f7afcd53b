"""A-LLMRec: the language model stays as it is, and the small network in front of it meets its three aims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_behavior.baselines.language import fitting
from edge_behavior.baselines.language.a_llmrec import ALlmRec, Joint, SoftPrompts
from edge_behavior.data.windows import natural_windows
from tests import helpers
from tests.unit.baselines.language import conftest
from tests.unit.baselines.language.conftest import LENGTH, RATE, backbone, budget, language

WINDOWS = np.array([8, 20, 31, 3, 0])


@pytest.fixture(autouse=True)
def small_events(monkeypatch: pytest.MonkeyPatch) -> None:
    conftest.small_sasrec(monkeypatch)


def quick(users: Any, folder: Path, epochs: float = 1, **fields: Any) -> Any:
    system = ALlmRec(language(epochs, evals_per_epoch=1 / epochs), **{"alignment_steps": 20, **fields})
    return system.fit(users, LENGTH, budget(folder, targets=60), RATE)


def test_twenty_users_are_learned_through_a_random_language_model(users: Any, tmp_path: Path) -> None:
    """What is frozen is random: it can be steered some of the way, and knows nothing without its prompts."""
    windows = natural_windows(users.table, LENGTH)
    held = language(12, evals_per_epoch=1 / 12, model=lambda: helpers.model(conftest.tokens("stream"), spread=6.0))
    found = ALlmRec(held, alignment_steps=200).fit(users, LENGTH, budget(tmp_path / "fit"), RATE)

    def accuracy() -> float:
        return float((found.log_probs(users.table, windows).argmax(1) == users.table.behavior[windows]).mean())

    steered = accuracy()
    assert steered > 0.4
    with torch.no_grad():
        for projection in (found.model.vectors.item, found.model.vectors.user):
            projection[3].weight.zero_()
    assert accuracy() < steered


def test_the_language_models_weights_are_bit_equal(users: Any, tmp_path: Path) -> None:
    found, own = quick(users, tmp_path), backbone().state_dict()
    held = found.model.language.state_dict()
    assert held.keys() == own.keys()
    assert all(torch.equal(held[name], weight) for name, weight in own.items())
    # What was trained is in front of it.
    trained = found.model.state_dict()
    assert {name.split(".")[1] for name in trained} == {"item", "user"}
    torch.manual_seed(0)
    fresh = SoftPrompts(found.model.vectors.events, found.model.vectors.joint, found.model.inputs.width)
    assert not torch.equal(trained["vectors.item.0.weight"], fresh.item[0].weight)


def test_the_prompts_are_what_it_answers_by(users: Any, tmp_path: Path) -> None:
    found = quick(users, tmp_path)
    before = found.log_probs(users.table, WINDOWS)
    with torch.no_grad():
        found.model.vectors.user[0].weight.add_(1.0)
    assert (found.log_probs(users.table, WINDOWS) != before).any(1).all()


def test_the_joint_network_meets_its_three_aims() -> None:
    torch.manual_seed(0)
    items, texts = torch.randn(7, 8), torch.randn(6, 12).numpy()
    joint, states = Joint(items, texts, 16), torch.randn(40, 8)
    answers = (states @ items[:-1].T).argmax(1)
    before = joint.losses(states, answers)
    optimizer = torch.optim.Adam(joint.parameters(), 0.01)
    for _ in range(300):
        loss = torch.stack(list(joint.losses(states, answers).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = joint.losses(states, answers)
    assert all(after[name] < before[name] / 2 for name in before)
    assert joint.encoded().shape == (7, 16)
    assert torch.equal(joint.items, items)


def test_an_interrupted_fit_keeps_its_first_stage(users: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quick(users, tmp_path / "whole").log_probs(users.table, WINDOWS)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "tune", stop)
        with pytest.raises(KeyboardInterrupt):
            quick(users, tmp_path / "cut")
    kept = (tmp_path / "cut" / "joint.safetensors").stat().st_mtime_ns
    assert (quick(users, tmp_path / "cut").log_probs(users.table, WINDOWS) == whole).all()
    assert (tmp_path / "cut" / "joint.safetensors").stat().st_mtime_ns == kept
