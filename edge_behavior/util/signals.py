"""Delays Python's signal handlers while native code runs that calls back into Python."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Signals that ask a program to end, where the system has them.
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def held_back_signals() -> Iterator[None]:
    """Run Python's handlers of Ctrl-C and the like at the end of the block, not within it.

    Only the main thread has handlers; in others this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    handlers = {number: signal.getsignal(number) for number in _ENDING}
    # Ignored signals and those that end the process run no Python code.
    held = {number: handler for number, handler in handlers.items() if callable(handler) and handler is not note}
    try:
        for number in held:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for number in arrived:
            handler = held[number]
            if callable(handler):
                handler(number, None)
