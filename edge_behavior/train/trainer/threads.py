"""How many threads training computes with: no more than CPUs are free.

OpenMP's threads meet after every operation. One that waits for a CPU which another process holds makes all others wait.
"""

from __future__ import annotations

from functools import cache

import torch

from edge_behavior.train.trainer.processes import console
from edge_behavior.util.cpus import free_cpus, usable_threads


@cache
def _torchs_own() -> int:
    """torch's number of threads before it was ever set here; OMP_NUM_THREADS, which launchers set, bounds it."""
    return torch.get_num_threads()


class Threads:
    """Fits torch's threads to the CPUs that are free.

    Args:
        asked: The recipe's `threads`, which are taken as they are; None for as many as are free.
    """

    def __init__(self, asked: int | None) -> None:
        self._asked, self._most = asked, _torchs_own()

    def fit(self) -> int:
        """Look how much of the machine other processes use, for a quarter of a second, and set the threads.

        Raises:
            EdgebError: see `usable_threads`.
        """
        own = self._most if self._asked or self._most == 1 else min(self._most, free_cpus())
        threads = usable_threads(self._asked, own)
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
            if self._asked is None:
                why = "again" if threads == self._most else "now: other processes use the rest"
                console().print(f"computing with {threads} of {self._most} threads {why}")
        return threads
