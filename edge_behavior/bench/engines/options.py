"""What a table of bundles measures, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_behavior.bench.options import LEAST_BUDGET, HistoryFile
from edge_behavior.core.scoring import check_scoring
from edge_behavior.errors import EdgebError
from edge_behavior.util.cpus import chosen_threads

# Fewer samples have no 95 % interval of their median.
LEAST_WINDOWS = 6


@dataclass(frozen=True)
class TableOptions:
    """What to measure.

    Attributes:
        windows: Predictions per scenario and bundle.
        threads: CPU threads, for all bundles.
        scoring: `exact` or `masked`.
        against: The bundle that others are compared with; None for the first.
        data: Dataset whose test windows are predicted, so that the truth is known.
        history: Events to predict from instead; None, and no `data`, draws synthetic ones.
        peers: Also measure llama.cpp's own ways, on the first GGUF bundle.
        slow_windows: Predictions of the peers that take long.
        limits: Also measure what this machine can do at best; needs torch.
        budget: Seconds that the windows may take; what does not fit is cut.
    """

    windows: int = 50
    threads: int = 1
    scoring: str = "exact"
    against: Path | None = None
    data: Path | None = None
    history: HistoryFile | None = None
    peers: bool = False
    slow_windows: int = 6
    limits: bool = True
    budget: float = 300.0

    def __post_init__(self) -> None:
        check_scoring(self.scoring)
        if self.windows < LEAST_WINDOWS:
            raise EdgebError(f"--windows is {self.windows}", f"use {LEAST_WINDOWS} or more")
        if self.slow_windows < 1:
            raise EdgebError(f"--label-repeats is {self.slow_windows}", "use 1 or more")
        if self.data is not None and self.history is not None:
            raise EdgebError("--data and --history both say what to predict", "pass one of them")
        if not self.budget >= LEAST_BUDGET:
            raise EdgebError(f"--budget is {self.budget:g}", f"use {LEAST_BUDGET:g} or more seconds")
        chosen_threads(self.threads, 1, "--threads")
