"""What backends with a cache of their own have in common: a change that fails half-way leaves no wrong answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager


class Guarded(ABC):
    """A cache, and fields of the backend that describe it."""

    # Whether they agree: not during a change, nor after one that failed half-way.
    _known = True

    @abstractmethod
    def _clear(self) -> None:
        """Empty the cache, and the fields that describe it."""

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Guard a change of the cache: if it fails, the next change begins with an empty cache."""
        self._restore_order()
        self._known = False
        yield
        self._known = True

    def _restore_order(self) -> None:
        """Empty the cache if a change of it failed half-way."""
        if not self._known:
            self._empty()

    def _empty(self) -> None:
        """Begin anew."""
        self._known = False
        self._clear()
        self._known = True
