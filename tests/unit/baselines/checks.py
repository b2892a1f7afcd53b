"""What every fitted system is held against, and a kill at a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from transformers import TrainerCallback


class Killed(BaseException):
    pass


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            raise Killed


def assert_blind_from_the_target_on(fitted: Any, users: Any) -> None:
    """A prediction does not change with the target's behavior or a later one, and does with the one before."""
    target, later = np.array([6]), users.table.behavior.copy()
    later[6:] = (later[6:] + 1) % 6
    changed = replace(users.table, behavior=later)
    assert (fitted.log_probs(users.table, target) == fitted.log_probs(changed, target)).all()
    later[5] = (later[5] + 1) % 6
    assert (fitted.log_probs(users.table, target) != fitted.log_probs(changed, target)).any()
