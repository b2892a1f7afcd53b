"""PITuning: population first, then each user by itself, with unlearning where a behavior is predicted too often."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edge_behavior.baselines.language.pituning import FittedIndividuals, PiTuning, unlearning
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.inputs import causal_row
from edge_behavior.baselines.sequence.training import tensors
from edge_behavior.core.candidates import smoothed_shares
from edge_behavior.data.windows import natural_windows
from tests.helpers import LABELS
from tests.unit.baselines.language.conftest import LENGTH, Users, backbone, budget, language

SMALL = SequenceConfig(
    hidden=16, layers=1, heads=2, epochs=1, least_steps=20, eval_steps=10, batch_size=8, dropout=0.0, patience=99
)
WINDOWS = np.array([8, 20, 22, 31])
PLAIN = {"unlearning": 0.0}


@pytest.fixture
def users() -> Any:
    return Users(both=True)


def quick(users: Any, folder: Path, **fields: Any) -> FittedIndividuals:
    return PiTuning(language(), config=SMALL, **fields).fit(users, LENGTH, budget(folder, targets=100), 0.01)


@pytest.mark.long
def test_twenty_users_are_learned_by_heart(users: Any, tmp_path: Path) -> None:
    config = replace(SMALL, hidden=32, least_steps=200, eval_steps=100, batch_size=16)
    windows = natural_windows(users.table, LENGTH)
    found = PiTuning(language(), config=config).fit(users, LENGTH, budget(tmp_path / "fit"), 0.003)
    right = found.log_probs(users.table, windows).argmax(1) == users.table.behavior[windows]
    assert right.mean() > 0.95


def test_without_unlearning_it_is_plain_tuning(users: Any, tmp_path: Path) -> None:
    found = quick(users, tmp_path, **PLAIN)
    rows = found.log_probs(users.table, WINDOWS)
    # The oracle: gradient descent on the log-likelihood of what the user did before the first window.
    model = found.population.model
    for window, own in (([0], range(8)), ([1, 2], range(12, 20)), ([3], range(24, 31))):
        states = found._states(users.table, np.array(own))
        layer = deepcopy(model.answer)
        answers = torch.tensor(users.table.behavior[list(own)]).long()
        optimizer = torch.optim.SGD(layer.parameters(), 0.5 / float((states**2).sum(1).mean()))
        for _ in range(10):
            optimizer.zero_grad()
            F.cross_entropy(layer(states), answers).backward()
            optimizer.step()
        with torch.no_grad():
            expected = torch.log_softmax(layer(found._states(users.table, WINDOWS[window])), -1)
        np.testing.assert_allclose(rows[window], expected, atol=1e-4)
    # With it, something else comes out of the same population.
    other = FittedIndividuals(found.population, PiTuning(language(), config=SMALL), smoothed_shares([1] * len(LABELS)))
    assert not np.allclose(other.log_probs(users.table, WINDOWS), rows, atol=1e-3)


def test_population_tuning_rebuilds_the_events_that_were_read(users: Any, tmp_path: Path) -> None:
    """In training alone, weighed; the oracle is another layer's cross-entropy at every event."""
    population = quick(users, tmp_path).population
    model, columns = population.model, population.vocabulary.columns(users.table)
    batch = tensors([causal_row(columns, 0, 5, len(LABELS)), causal_row(columns, 12, 15, len(LABELS))])
    asked = model(**batch)["loss"]
    model.train()
    for weight in (0.0, 0.5):
        model.reconstruction = weight
        states = model.states(batch["behavior"], batch["event"], batch["target"])[batch["present"]]
        rebuilt = F.cross_entropy(model.rebuilt(states), batch["behavior"][batch["present"]])
        torch.testing.assert_close(model(**batch)["loss"], asked + weight * rebuilt)
    assert float(rebuilt.detach()) > 0


def test_unlearning_is_what_is_predicted_too_often() -> None:
    shares, answers = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0, 1, 2, 2])
    even = (torch.tensor([1.0, 1.0, 2.0]) + 4 * shares) / 8
    assert float(unlearning(even.log().expand(4, 3), answers, shares, 4.0)) == pytest.approx(0, abs=1e-6)
    often = torch.tensor([0.8, 0.1, 0.1])
    logits = often.log().expand(4, 3).clone().requires_grad_(True)
    loss = unlearning(torch.log_softmax(logits, -1), answers, shares, 4.0)
    assert float(loss) == pytest.approx(0.8 - float(even[0]), abs=1e-6)
    loss.backward()
    # Following it, the frequent behavior gives way to the others.
    assert (logits.grad[:, 0] > 0).all()
    assert (logits.grad[:, 1:] < 0).all()


def test_a_rare_behavior_keeps_its_share(users: Any, tmp_path: Path) -> None:
    """The population's layer is told to predict one behavior too often: unlearning gives the others more back."""
    found, bias = quick(users, tmp_path), torch.zeros(len(LABELS))
    bias[0] = 5.0
    with torch.no_grad():
        found.population.model.answer.bias.add_(bias)
    tuned = np.exp(found.log_probs(users.table, WINDOWS))[:, 0].mean()
    plain = FittedIndividuals(found.population, PiTuning(language(), config=SMALL, **PLAIN), found._shares.numpy())
    assert tuned < np.exp(plain.log_probs(users.table, WINDOWS))[:, 0].mean() - 0.01


def test_nothing_is_learned_from_the_windows_themselves(users: Any, tmp_path: Path) -> None:
    found, targets = quick(users, tmp_path), np.array([8, 10])
    before = found.log_probs(users.table, targets)
    changed = users.table.behavior.copy()
    changed[10:12] = (changed[10:12] + 1) % 6
    assert (found.log_probs(replace(users.table, behavior=changed), targets) == before).all()
    # The truth of the first window is context of the second, and tunes neither.
    truth = users.table.behavior.copy()
    truth[8] = (truth[8] + 1) % 6
    assert (found.log_probs(replace(users.table, behavior=truth), targets)[0] == before[0]).all()
    # What came before them is: of the user asked about, and of no other.
    changed[0] = (changed[0] + 1) % 6
    assert (found.log_probs(replace(users.table, behavior=changed), targets) != before).any(1).all()
    other = users.table.behavior.copy()
    other[12:] = (other[12:] + 1) % 6
    assert (found.log_probs(replace(users.table, behavior=other), targets) == before).all()
    # Nor of a user who stands before them in the table.
    second = found.log_probs(users.table, targets + 12)
    first = users.table.behavior.copy()
    first[:12] = (first[:12] + 1) % 6
    assert (found.log_probs(replace(users.table, behavior=first), targets + 12) == second).all()


@pytest.mark.parametrize("known", [0, 1, 3, None])
def test_cold_start_gives_distributions(known: int | None, users: Any, tmp_path: Path) -> None:
    rows = quick(users, tmp_path).log_probs(users.table, np.array([11, 0, 25, 13]), known)
    np.testing.assert_allclose(np.exp(rows).sum(1), 1)


def test_the_backbones_own_weights_stay_and_fits_are_read(users: Any, tmp_path: Path) -> None:
    first = quick(users, tmp_path)
    own = {name.removeprefix("model."): held for name, held in backbone().state_dict().items()}
    for name, held in first.population.model.backbone.base_model.model.named_parameters():
        if "lora" not in name:
            assert torch.equal(held, own[name.replace(".base_layer", "")])
    again = quick(users, tmp_path)
    assert (first.log_probs(users.table, WINDOWS) == again.log_probs(users.table, WINDOWS)).all()
