"""Windows of an event table as prompts: each alone, or those of a user's session together.

A window alone shows its last L events. In a session, a window grows from L to L + `rebase_every` events before it is
cut to the last L again (`runtime.session`), so that in the `stream` layout the windows in between are beginnings of one
sequence. Which events a window shows depends on its target only, not on the other windows asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.search import Goal
from edge_behavior.data.dataset import EventTable
from edge_behavior.hf.tree_scoring import Prompts
from edge_behavior.train.rows.samples import window_prompt

Ints = NDArray[np.int64]
# Windows per sequence: attention spends time on the trie nodes of the others, too, though it does not see them.
SHARING = 5


def draw_formats(encoder: PromptEncoder, count: int, seed: int) -> Ints:
    """[n] wording of each window: random where the layout has several, as in training (§4.1.4), else 0."""
    return np.random.default_rng(seed).integers(encoder.layout.formats, size=count)


def session_starts(table: EventTable, targets: Ints, length: int, rebase_every: int) -> Ints:
    """[n] the first event that a session's window before each target shows.

    Args:
        targets: Events that are predicted.
        length: L, the events that are left when a window is cut.
        rebase_every: How many more a window grows by.
    """
    first = table.user_offsets[table.user_of(targets)]
    beyond = targets - first - (length + rebase_every)
    return np.asarray(first + np.maximum(0, -(-beyond // (rebase_every + 1))) * (rebase_every + 1), dtype=np.int64)


@dataclass(frozen=True)
class WindowSet:
    """Windows to score: each is the history before an event, asked in one wording of the layout.

    Attributes:
        table: Their events.
        targets: int64 [n], the event that each window predicts.
        formats: int64 [n], see `draw_formats`.
        rebase_every: Of a session's windows, which only the `stream` layout has; None for windows alone.
        shown: Of windows alone: show at most so many events, also fewer than L, as of a user who is hardly known; None
            for L.
    """

    table: EventTable
    targets: Ints
    formats: Ints
    rebase_every: int | None = None
    shown: int | None = None

    @property
    def truth(self) -> Ints:
        """int64 [n], codes of the behaviors that followed."""
        return self.table.behavior[self.targets].astype(np.int64)

    def take(self, start: int, stop: int) -> WindowSet:
        """Some of the windows."""
        return replace(self, targets=self.targets[start:stop], formats=self.formats[start:stop])

    def prompts(self, encoder: PromptEncoder, goal: Goal) -> tuple[list[Prompts], Ints]:
        """The windows as prompts, each with its truth as the goal's target; and [n] which prompt is each window's.

        Windows of a session that begin at the same event share sequences, `SHARING` of them each.
        """
        if self.rebase_every is None:
            found = [
                self._alone(encoder, int(target), int(wording), replace(goal, target=int(code)))
                for target, wording, code in zip(self.targets, self.formats, self.truth, strict=True)
            ]
            return found, np.arange(len(found))
        targets, where = np.unique(self.targets, return_inverse=True)
        starts = session_starts(self.table, targets, encoder.layout.history_length, self.rebase_every)
        sequences = [
            self._sequence(encoder, int(starts[rows[0]]), targets[rows[at : at + SHARING]], goal)
            for rows in np.split(np.arange(len(targets)), np.flatnonzero(np.diff(starts)) + 1)
            for at in range(0, len(rows), SHARING)
        ]
        return sequences, where

    def _alone(self, encoder: PromptEncoder, target: int, wording: int, goal: Goal) -> Prompts:
        ids = window_prompt(self.table, encoder, target, wording, shown=self.shown)
        return Prompts(ids, [len(ids)], [goal])

    def _sequence(self, encoder: PromptEncoder, start: int, targets: Ints, goal: Goal) -> Prompts:
        """Windows of ascending targets that all begin at event `start`."""
        stretch = encoder.stretch(self.table.between(start, int(targets[-1]) + 1))
        ends = [stretch.targets[int(target) - start][0] for target in targets]
        goals = [replace(goal, target=int(self.table.behavior[target])) for target in targets]
        return Prompts(stretch.ids[: ends[-1]], ends, goals)
