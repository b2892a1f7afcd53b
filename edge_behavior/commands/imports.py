"""torch and its libraries, imported in less time."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def libraries() -> Iterator[None]:
    """Imports inside the block are not interrupted by garbage collections, and nothing they made is looked at again.

    torch, transformers, PEFT and TRL make half a million objects that stay to the end: going through them takes
    seconds while importing, and some tenths in every later collection.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        # Extension modules look at exit whether their objects are gone.
        atexit.register(gc.unfreeze)
        gc.enable()
