"""How long the demo still takes: the dry run's estimate for this machine, corrected by what finished work has taken.

Knows no command; gets seconds and gives seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The stages of a training whose time is planned, and the kind of their work. `b_tuning` scores its pool, too.
_STAGES = {"backbone": "pretraining", "a_tuning": "sft", "b_tuning": "dpo", "evaluation": "scoring"}


@dataclass
class Work:
    """A piece of work.

    Attributes:
        step: The step it belongs to.
        name: Unique within the step.
        kind: The plan is off by one factor for pieces of one kind, as far as is known.
        planned: Seconds by the plan.
        taken: Seconds it took; None while it is not finished.
    """

    step: str
    name: str
    kind: str
    planned: float
    taken: float | None = None


class Clock:
    """The seconds that are left of a list of works."""

    def __init__(self, works: Sequence[Work] = ()) -> None:
        self._works = list(works)

    def finish(self, step: str, name: str, seconds: float) -> bool:
        """Note what a piece of work has taken; whether that is news."""
        found = [work for work in self._works if (work.step, work.name) == (step, name) and work.taken is None]
        for work in found:
            work.taken = seconds
        return bool(found)

    def drop(self, step: str) -> None:
        """A step is done: what else it had planned is not coming."""
        self._works = [work for work in self._works if work.step != step or work.taken is not None]

    @property
    def left(self) -> float:
        """Seconds left in all; 0 if nothing is planned."""
        return sum(work.planned * self._factor(work.kind) for work in self._works if work.taken is None)

    def _factor(self, kind: str) -> float:
        """By how much the plan is off: for works of this kind, else in all, else not at all."""
        done = [work for work in self._works if work.taken is not None]
        counted = [work for work in done if work.kind == kind] or done
        planned = sum(work.planned for work in counted)
        return sum(work.taken or 0.0 for work in counted) / planned if planned else 1.0


def training_works(step: str, plan: Mapping[str, Any], backbone: bool = True) -> list[Work]:
    """The works of a training.

    Args:
        step: Its step.
        plan: `edgeb train --dry-run --json`.
        backbone: Whether it makes a stand-in, if its recipe has one.
    """
    seconds = plan["time"]["stages"]
    found = []
    for stage, kind in _STAGES.items():
        planned = seconds.get(stage, 0.0) + (seconds.get("scoring", 0.0) if stage == "b_tuning" else 0.0)
        if planned and (backbone or stage != "backbone"):
            found.append(Work(step, stage, kind, planned))
    return found


def scoring_work(step: str, windows: int, plan: Mapping[str, Any]) -> Work:
    """A step that scores windows, each of which takes as long as one of the plan's evaluation."""
    evaluated = 3 * plan["evaluation_windows"]
    return Work(step, step, "scoring", windows * plan["time"]["stages"]["evaluation"] / evaluated)
