"""Checkpoints by the clock: as many steps apart as fit into ten minutes, and the same number to the end."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from edge_behavior.train.run import checkpoints
from edge_behavior.train.run.checkpoints import SaveInTime


@pytest.mark.parametrize(("seconds", "apart"), [(0.001, None), (20.0, 30), (45.0, 14), (700.0, 1)])
def test_a_checkpoint_every_ten_minutes(seconds: float, apart: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step, with its compilations and caches, does not count; nor do evaluations, between steps."""
    clock = [0.0]
    monkeypatch.setattr(checkpoints, "monotonic", lambda: clock[0])
    callback, nothing, saved = SaveInTime(), Any, list[int]()
    for step in range(1, 101):
        state, control = TrainerState(global_step=step), TrainerControl()
        callback.on_step_begin(nothing, state, control)
        # Later ones may take another time.
        clock[0] += 300.0 if step == 1 else seconds if step < 20 else 1.0
        callback.on_step_end(nothing, state, control)
        clock[0] += 1000.0
        if control.should_save:
            saved.append(step)
    assert saved == ([] if apart is None else [s for s in range(5, 101) if s % apart == 0])
