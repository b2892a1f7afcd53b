"""What `edgeb bench` measures, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_behavior.core import REBASE_EVERY
from edge_behavior.core.scoring import check_scoring
from edge_behavior.core.times.clock import make_clock
from edge_behavior.errors import EdgebError
from edge_behavior.records.history import History, read_history
from edge_behavior.util.cpus import chosen_threads

# Session scenarios and how much of the ranking each has to prove; they take turns, one per round.
DEPTHS: dict[str, int | None] = {"session": 1, "session_top5": 5, "session_full": None}
CYCLE = len(DEPTHS)
LEAST_BUDGET = 10.0
_LEAST = {"repeats": 2} | dict.fromkeys(
    ("anchor_every", "label_repeats", "speed_repeats", "cold_starts", "pp", "tg"), 1
)


@dataclass(frozen=True)
class HistoryFile:
    """A history file and how to read it: `user`, `timezone` and `time_unit` are those of `edgeb predict`."""

    path: Path
    user: str | None = None
    timezone: str | None = None
    time_unit: str | None = None

    def read(self, places: bool) -> History:
        """The user's events.

        Raises:
            EdgebError: as `read_history` and `make_clock`.
        """
        return read_history(self.path, self.user, places, make_clock(self.timezone, self.time_unit))

    def to_dict(self) -> dict[str, str | None]:
        """Plain fields for another process."""
        return {"path": str(self.path), "user": self.user, "timezone": self.timezone, "time_unit": self.time_unit}

    @classmethod
    def from_dict(cls, fields: dict[str, str | None]) -> HistoryFile:
        """Rebuild from `to_dict`'s result."""
        return cls(Path(str(fields["path"])), fields["user"], fields["timezone"], fields["time_unit"])


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        repeats: Predictions per scenario.
        threads: CPU threads.
        scoring: `exact` or `masked`, of edgeb's own scenarios.
        anchor_every: Events by which a session's window may grow beyond L before it is re-based.
        compare: Also measure the peers, the lower bound and pp/tg.
        label_repeats: Predictions of the peer `labels`, which is slow.
        speed_repeats: Runs of pp and tg.
        cold_starts: Processes started per kind of cold start.
        pp: Prompt tokens of pp.
        tg: Generated tokens of tg.
        history: Events to predict from; None draws synthetic ones.
        accelerator: What evaluates a LiteRT bundle, see `Predictor.load`.
        budget: Seconds that the measurement may take; the bench cuts repeats, peers and processes to keep them.
    """

    repeats: int = 30
    threads: int = 1
    scoring: str = "exact"
    anchor_every: int = REBASE_EVERY
    compare: bool = False
    label_repeats: int = 3
    speed_repeats: int = 5
    cold_starts: int = 3
    pp: int = 512
    tg: int = 128
    history: HistoryFile | None = None
    accelerator: str | None = None
    budget: float = 300.0

    def __post_init__(self) -> None:
        check_scoring(self.scoring)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise EdgebError(f"--{name.replace('_', '-')} is {value}", f"use {least} or more")
        if not self.budget >= LEAST_BUDGET:
            raise EdgebError(f"--budget is {self.budget:g}", f"use {LEAST_BUDGET:g} or more seconds")
        chosen_threads(self.threads, 1, "--threads")

    @property
    def rounds(self) -> int:
        """Rounds in which scenarios take turns; a scenario is timed in one of `CYCLE`."""
        return CYCLE * self.repeats

    def every(self, wanted: int) -> int:
        """Of the rounds in which a scenario is due, every n-th, so that about `wanted` of them are timed."""
        return max(1, self.repeats // wanted)
