"""Signals that arrive while native code runs which calls back into Python: their handlers run afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# What asks a program to end; those of them that the system has.
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def held_back_signals() -> Iterator[None]:
    """Have Python's handlers of Ctrl-C and the like run at the end of the block and not within it.

    Other threads than the main one have no handlers, so there nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    handlers = {number: signal.getsignal(number) for number in _ENDING}
    # Those that ignore a signal, or let it end the process, do not run Python code.
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
