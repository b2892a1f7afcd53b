"""What every backend owes after close, after a fork and after an interrupt, whatever the engine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError

TRIE = LabelTrie.from_paths([[5, 1], [6, 7, 1], [6, 8, 1]])
_SECONDS = 60


def every_use(backend: Any) -> dict[str, Callable[[], Any]]:
    """Every member of `Backend` but `close`."""
    return {
        "n_vocab": lambda: backend.n_vocab,
        "capacity": lambda: backend.capacity,
        "held": lambda: backend.held,
        "fingerprint": lambda: backend.fingerprint,
        "decode_seconds": lambda: backend.decode_seconds,
        "tokenize": lambda: backend.tokenize("a place never seen"),
        "prefill": lambda: backend.prefill([3, 4]),
        "branch": lambda: backend.branch(TRIE, [1]),
        "at_hand": lambda: backend.at_hand(TRIE),
        "save_state": lambda: backend.save_state(),
        "load_state": lambda: backend.load_state([3, 4], b"state"),
    }


def refuses_after_close(backend: Any) -> None:
    """Close a backend that has worked, and use it."""
    backend.prefill([3, 4, 5], TRIE, [1])
    backend.branch(TRIE, [2])
    backend.close()
    backend.close()
    for use in every_use(backend).values():
        with pytest.raises(EdgebError, match="is closed") as caught:
            use()
        assert caught.value.hint


def in_fork(ask: Callable[[], None]) -> None:
    """Run `ask` in a forked child, which must come to an end, and to a good one."""
    child = os.fork()
    if not child:
        status = 1
        try:
            ask()
            status = 0
        finally:
            os._exit(status)
    for _ in range(_SECONDS * 20):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert os.waitstatus_to_exitcode(status) == 0, "the child failed; its traceback is above"
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(f"the forked child was not done after {_SECONDS} s")


def refused_in_fork(backend: Any) -> None:
    """A forked child may neither use nor free a backend, and its parent does not notice that it tried."""
    before = backend.prefill([3, 4, 5])[0].copy()

    def ask() -> None:
        for use in every_use(backend).values():
            with pytest.raises(EdgebError, match="loaded in another process"):
                use()
        backend.close()

    in_fork(ask)
    assert backend.held == [3, 4, 5]
    assert backend.prefill([3, 4, 5])[0] == pytest.approx(before, abs=1e-4)
