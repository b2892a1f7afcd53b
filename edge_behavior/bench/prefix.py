"""The static part of the prompt: evaluating it against restoring its snapshot."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

from edge_behavior.bench.scenarios import slot
from edge_behavior.bench.timing import Sample
from edge_behavior.runtime.backends.base import Backend
from edge_behavior.runtime.prefix_cache import PrefixCache


class PrefixScenario:
    """`prefix_evaluate`, `prefix_restore` (snapshot file to a cache ready for use, its hash checked), both from empty.

    `prefix_load` is the part of a restore that the engine does, from bytes in memory.
    """

    def __init__(self, backend: Backend, model: str, static_ids: list[int]) -> None:
        self._backend, self._ids = backend, static_ids
        self._folder = tempfile.TemporaryDirectory(prefix="edgeb-bench-")
        self._cache = PrefixCache(Path(self._folder.name), model)
        self._cache.warm(backend, static_ids)
        self._state = backend.save_state()

    @property
    def snapshot_bytes(self) -> int:
        """Size of the snapshot."""
        return len(self._state)

    def turn(self, i: int) -> Mapping[str, Sample]:
        """See `Scenario`."""
        if slot(i) != 1:
            return {}
        count = len(self._ids)
        self._empty()
        evaluated = _timed(lambda: self._backend.prefill(self._ids))
        self._empty()
        restored = _timed(lambda: self._cache.warm(self._backend, self._ids))
        self._empty()
        loaded = _timed(lambda: self._backend.load_state(self._ids, self._state))
        return {
            "prefix_evaluate": Sample(evaluated, count),
            "prefix_restore": Sample(restored, 0),
            "prefix_load": Sample(loaded, 0),
        }

    def close(self) -> None:
        """See `Scenario`."""
        self._backend.close()
        self._folder.cleanup()

    def _empty(self) -> None:
        # A prompt that begins otherwise leaves nothing of the one before.
        self._backend.prefill([(self._ids[0] + 1) % self._backend.n_vocab])


def _timed(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return (perf_counter() - started) * 1000
