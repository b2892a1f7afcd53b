"""How long the objects of an inference engine live: until they are closed or their owner is gone, in one process.

Native code takes a freed handle, and after a fork another process's, without a word: it crashes or waits for ever.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from edge_behavior.errors import EdgebError

_Handle = TypeVar("_Handle")
_Free = tuple[Callable[[Any], None], Any]


class Lifetime:
    """Of what one owner holds. Everything kept is freed once, the last first: by `close`, or when the owner is gone.

    A forked child frees nothing: what it has is a copy that shares files and threads with its parent.

    Args:
        owner: Not kept alive.
        what: The owner's name, for error messages.
    """

    def __init__(self, owner: object, what: str = "the predictor") -> None:
        self._what, self._process = what, os.getpid()
        self._frees: list[_Free] = []
        self._finalizer = weakref.finalize(owner, _free_all, self._frees, self._process)
        # At exit the memory goes with the process, and a daemon thread may still be computing.
        self._finalizer.atexit = False

    def keep(self, handle: _Handle, free: Callable[[Any], None]) -> _Handle:
        """Have `free(handle)` called at the end; gives the handle back."""
        self._frees.append((free, handle))
        return handle

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is another process than the one it began in."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Refuse a process that was forked after loading.

        Raises:
            EdgebError: this is another process than the one that loaded.
        """
        if self.is_elsewhere:
            raise EdgebError(
                f"{self._what} was loaded in another process, before a fork", "load the bundle in the process that asks"
            )

    def check(self) -> None:
        """Refuse what is closed, or another process's.

        Raises:
            EdgebError: says which of the two.
        """
        self.check_process()
        if not self._finalizer.alive:
            raise EdgebError(f"{self._what} is closed", "load the bundle again")

    def close(self) -> None:
        """Free everything; nothing is left to do the second time."""
        self._finalizer()


class Turns:
    """One caller at a time, from whatever thread; a thread may take its turn within its turn."""

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime, self._lock = lifetime, threading.RLock()
        self._depth = 0
        self._last: Callable[[], None] | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the callers before, and keep the next ones waiting while the block runs.

        Raises:
            EdgebError: what its lifetime refuses, without waiting after a fork.
        """
        # First: the thread that held the lock at a fork is not there to give it back.
        self._lifetime.check_process()
        with self._lock:
            self._lifetime.check()
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0 and self._last is not None:
                    self._last()

    def after(self, last: Callable[[], None]) -> None:
        """Run `last` when no turn is under way: at the end of this thread's own, where a signal's handler calls."""
        with self._lock:
            if self._depth:
                self._last = last
            else:
                last()


def _free_all(frees: list[_Free], process: int) -> None:
    if os.getpid() == process:
        while frees:
            free, handle = frees.pop()
            free(handle)
