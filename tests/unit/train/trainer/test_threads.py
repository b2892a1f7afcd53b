"""Threads follow what other processes leave free."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from edge_behavior.train.trainer import threads
from edge_behavior.train.trainer.threads import Threads
from edge_behavior.util import cpus


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """CPUs that are free, of four."""
    left = [4]
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_torchs_own", lambda: 4)
    monkeypatch.setattr(threads, "free_cpus", lambda: left[0])
    monkeypatch.setattr(cpus, "allowed_cpus", lambda: 4)
    monkeypatch.setattr(cpus, "_pooled", False)
    monkeypatch.setattr(cpus, "_pool_lost", False)
    yield left
    torch.set_num_threads(before)


def test_every_look_counts(free: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    of_a_run = Threads(None)
    for left, expected in ((3, 3), (1, 1), (4, 4)):
        free[0] = left
        assert of_a_run.fit() == expected == torch.get_num_threads()
    assert "computing with 3 of 4 threads now: other processes use the rest" in capsys.readouterr().err


def test_a_number_that_was_asked_for_is_kept(free: list[int]) -> None:
    free[0] = 1
    assert Threads(2).fit() == 2 == torch.get_num_threads()
