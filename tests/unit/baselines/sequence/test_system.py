"""SASRec and BERT4Rec from a dataset to log-probabilities: they learn, repeat themselves and survive a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.baselines import trained
from edge_behavior.baselines.sequence import training
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.fitting import WindowRows
from edge_behavior.baselines.sequence.inputs import IGNORED, Columns
from edge_behavior.baselines.sequence.system import SequenceSystem
from edge_behavior.baselines.system import Budget, FailedTrainingError
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import natural_windows
from edge_behavior.errors import EdgebError
from tests.helpers import LABELS, event_table
from tests.unit.baselines.checks import KillAt, Killed, assert_blind_from_the_target_on

LENGTH = 5
SMALL = SequenceConfig(hidden=16, layers=1, heads=2, epochs=1, least_steps=12, eval_steps=4, batch_size=8)
BOTH = pytest.mark.parametrize("name", ["sasrec", "bert4rec"])


class Users:
    """Stands in for a dataset: its three parts are the same twenty users, each going round one of two circles."""

    path, fingerprint, has_places = Path("users"), "users", True

    def __init__(self) -> None:
        six = LABELS[:6]
        turns = [six[i % 6 :] + six[: i % 6] for i in range(20)]
        self.table = event_table([(turn if i % 2 else turn[::-1]) * 2 for i, turn in enumerate(turns)])
        self.candidates = self.table.candidates

    def events(self, split: str) -> EventTable:
        return self.table


@pytest.fixture
def users() -> Any:
    return Users()


def fitted(system: SequenceSystem, dataset: Dataset, folder: Path, seed: int = 0, rate: float = 0.01) -> np.ndarray:
    table = dataset.events("test")
    windows = natural_windows(table, LENGTH, limit=20)
    return system.fit(dataset, LENGTH, Budget(100, 20, seed, folder), rate).log_probs(table, windows)


@pytest.mark.long
@pytest.mark.parametrize(("name", "steps", "rate"), [("sasrec", 300, 0.005), ("bert4rec", 1500, 0.001)])
def test_twenty_users_are_learned_by_heart(name: str, steps: int, rate: float, users: Any, tmp_path: Path) -> None:
    fields = {"hidden": 32, "dropout": 0.0, "context": name == "sasrec", "patience": 99}
    system = SequenceSystem(name, replace(SMALL, least_steps=steps, eval_steps=100, **fields))
    windows = natural_windows(users.table, LENGTH)
    found = system.fit(users, LENGTH, Budget(0, 40, 0, tmp_path / "fit"), rate)
    right = found.log_probs(users.table, windows).argmax(1) == users.table.behavior[windows]
    assert right.mean() > 0.95
    # One event does not tell which way round a user goes.
    fewer = found.log_probs(users.table, windows, 1).argmax(1) == users.table.behavior[windows]
    assert fewer.mean() < right.mean()


@BOTH
@pytest.mark.parametrize("known", [0, 1, 3, None])
def test_cold_start_gives_distributions(name: str, known: int | None, users: Any, tmp_path: Path) -> None:
    found = SequenceSystem(name, SMALL).fit(users, LENGTH, Budget(40, 10, 0, tmp_path), None)
    windows = np.array([11, 0, 25, 13])
    rows = found.log_probs(users.table, windows, known)
    assert np.allclose(np.exp(rows).sum(1), 1)
    assert np.isfinite(rows).all()
    # In whatever order they are asked, and by themselves.
    alone = [found.log_probs(users.table, windows[i : i + 1], known)[0] for i in range(4)]
    assert np.allclose(rows, alone, atol=1e-5)
    assert found.log_probs(users.table, windows[:0], known).shape == (0, len(LABELS))


@BOTH
def test_a_prediction_sees_no_behavior_from_the_target_on(name: str, users: Any, tmp_path: Path) -> None:
    found = SequenceSystem(name, SMALL).fit(users, LENGTH, Budget(40, 10, 0, tmp_path), None)
    assert_blind_from_the_target_on(found, users)


@BOTH
def test_a_seed_repeats_itself_and_another_does_not(name: str, users: Any, tmp_path: Path) -> None:
    system = SequenceSystem(name, SMALL)
    first, second = (fitted(system, users, tmp_path / folder) for folder in "ab")
    assert (first == second).all()
    assert not np.allclose(first, fitted(system, users, tmp_path / "c", seed=1))


@given(st.integers(0, 9), st.integers(0, 6), st.integers(1, LENGTH + 1), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_a_training_row_asks_for_its_stretch_only_and_shows_no_more_than_a_window(
    first: int, before: int, size: int, seed: int
) -> None:
    """Codes are positions here, so that a row says which events it is of."""
    at = np.arange(30)
    columns, start = Columns(at, np.zeros((30, 3), np.int64)), first + before
    for name in ("sasrec", "bert4rec"):
        rows = WindowRows(name, SMALL, LENGTH, symbol=30)
        row = rows.training(columns, first, start, start + size, np.random.default_rng(seed))
        asked = row.answers[row.answers != IGNORED]
        assert len(asked)
        assert set(asked.tolist()) <= set(range(start, start + size))
        assert len(row.behavior) <= LENGTH + 1
        shown = row.behavior[row.behavior != 30]
        assert all(first <= event < start + size for event in shown.tolist())
        if name == "bert4rec":
            assert not set(asked.tolist()) & set(shown.tolist())


@BOTH
def test_an_interrupted_fit_goes_on_to_the_same_result(
    name: str, users: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = SequenceSystem(name, SMALL)
    whole = fitted(system, users, tmp_path / "whole")
    own, steps = trained.trainer_callbacks, []
    for kill in (6, 9):
        monkeypatch.setattr(trained, "trainer_callbacks", lambda *a, kill=kill: [*own(*a), KillAt(kill)])
        with pytest.raises(Killed):
            fitted(system, users, tmp_path / "cut")
        steps.append(sorted(p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()))
    assert steps == [["checkpoint-4"], ["checkpoint-4", "checkpoint-8"]]
    monkeypatch.setattr(trained, "trainer_callbacks", own)
    assert (fitted(system, users, tmp_path / "cut") == whole).all()
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["fit.json", "model.safetensors"]
    # What was trained before the kills counts, and what was trained again does not count twice.
    costs = [trained.cost_of(torch.nn.Linear(2, 3), tmp_path / folder) for folder in ("whole", "cut")]
    assert costs[0].tokens == costs[1].tokens != 0
    assert all(cost.seconds is not None and cost.seconds > 0 for cost in costs)
    assert (costs[0].parameters, costs[0].bytes) == (9, 36)
    # A finished fit is read.
    monkeypatch.setattr(training, "train", None)
    assert (fitted(system, users, tmp_path / "cut") == whole).all()


def test_the_folder_of_another_fit_is_refused(users: Any, tmp_path: Path) -> None:
    fitted(SequenceSystem("sasrec", SMALL), users, tmp_path / "fit")
    with pytest.raises(EdgebError, match="holds a fit with another 'seed'"):
        fitted(SequenceSystem("sasrec", SMALL), users, tmp_path / "fit", seed=1)
    with pytest.raises(EdgebError, match="holds a fit with another 'system'"):
        fitted(SequenceSystem("bert4rec", SMALL), users, tmp_path / "fit")


def test_a_rate_at_which_nothing_trains_is_told_apart(users: Any, tmp_path: Path) -> None:
    config = replace(SMALL, least_steps=100, eval_steps=10)
    with pytest.raises(FailedTrainingError, match=r"SASRec: the loss (became|diverged)"):
        fitted(SequenceSystem("sasrec", config), users, tmp_path / "fit", rate=1e12)


def test_a_log_is_fitted_from_its_folder(dataset: Dataset, tmp_path: Path) -> None:
    found = fitted(SequenceSystem("sasrec", SMALL), dataset, tmp_path / "fit")
    assert found.shape == (20, len(dataset.candidates))
