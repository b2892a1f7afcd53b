"""Lifetime of an inference engine's native objects: until closed or garbage-collected, in one process.

Native code does not check for freed handles, nor for handles of another process after a fork: it crashes or hangs.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from edge_behavior.errors import EdgebError

_Handle = TypeVar("_Handle")
_Owner = TypeVar("_Owner")
_Free = tuple[Callable[[Any], None], Any]


class Lifetime:
    """Lifetime of one owner's handles: freed once, last first, by `close` or when the owner is garbage-collected.

    A forked child frees nothing: its copies share files and threads with the parent.

    Args:
        owner: Not kept alive.
        what: The owner's name, for error messages.
    """

    def __init__(self, owner: object, what: str = "the predictor") -> None:
        self._what, self._process = what, os.getpid()
        self._frees: list[_Free] = []
        self._finalizer = weakref.finalize(owner, _free_all, self._frees, self._process)
        # At exit the process frees the memory anyway, and a daemon thread may still be computing.
        self._finalizer.atexit = False

    def keep(self, handle: _Handle, free: Callable[[Any], None]) -> _Handle:
        """Register `free(handle)` for the end; returns the handle."""
        self._frees.append((free, handle))
        return handle

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is another process than the one that created it."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Refuse a process forked after loading.

        Raises:
            EdgebError: this is another process than the one that loaded.
        """
        if self.is_elsewhere:
            raise EdgebError(
                f"{self._what} was loaded in another process, before a fork", "load the bundle in this process"
            )

    def check(self) -> None:
        """Refuse use after `close`, or in another process.

        Raises:
            EdgebError: saying which.
        """
        self.check_process()
        if not self._finalizer.alive:
            raise EdgebError(f"{self._what} is closed", "load the bundle again")

    def close(self) -> None:
        """Free everything; the second call does nothing."""
        self._finalizer()


class Turns:
    """A reentrant lock: one caller at a time, from any thread."""

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime, self._lock = lifetime, threading.RLock()
        self._depth = 0
        self._last: Callable[[], None] | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Run the block while no other thread is in one.

        Raises:
            EdgebError: closed, or in a forked process, where it does not wait.
        """
        # First: the thread that held the lock at a fork does not exist in the child.
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
        """Run `last` once no block is running; called from a signal handler inside a block, at that block's end."""
        with self._lock:
            if self._depth:
                self._last = last
            else:
                last()


# Owners of Python objects whose destructors are native, and what of them a forked child must not run.
_shielded: weakref.WeakKeyDictionary[Any, Callable[[Any], Iterable[object]]] = weakref.WeakKeyDictionary()


def never_freed_in_children(owner: _Owner, natives: Callable[[_Owner], Iterable[object]]) -> None:
    """Have a forked child never free an owner's native objects, not even at exit.

    Freeing them waits for threads, of which a forked child has none.

    Args:
        owner: Not kept alive.
        natives: Gives the objects that it has at the time of the fork.
    """
    _shielded[owner] = natives


def _keep_for_ever() -> None:
    for owner, natives in _shielded.items():
        for held in natives(owner):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)


def _free_all(frees: list[_Free], process: int) -> None:
    if os.getpid() == process:
        while frees:
            free, handle = frees.pop()
            free(handle)
