"""Faster imports of torch and its libraries."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def libraries() -> Iterator[None]:
    """Suspend garbage collection while the block imports, and exempt what it made from later collections.

    torch, transformers, PEFT and TRL create half a million objects that stay to the end: scanning them takes seconds
    during the imports, and tenths of a second in every later collection.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        # Extension modules check at exit that their objects are gone.
        atexit.register(gc.unfreeze)
        gc.enable()
