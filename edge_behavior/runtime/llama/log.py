"""Capture llama.cpp's log, so that it does not reach the user's terminal."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import llama_cpp

from edge_behavior.util.signals import held_back_signals

_LEVEL_ERROR = 4


@dataclass(eq=False)
class _Capture:
    listener: Callable[[str], None] | None = None
    errors: list[str] = field(default_factory=list)


class _Captures(threading.local):
    """Capturing blocks of a thread, the innermost last."""

    def __init__(self) -> None:
        self.open: list[_Capture] = []


_captures = _Captures()
# llama.cpp has one callback per process: the first block of any thread sets it and the last one restores the old one.
# A line goes to the block of the thread that logs it.
_lock = threading.RLock()
_blocks = 0
_before: tuple[Any, Any] = (None, None)


@contextmanager
def captured_log(listener: Callable[[str], None] | None = None) -> Iterator[list[str]]:
    """Capture what llama.cpp logs in this thread while the block runs; yields its error lines.

    Signal handlers run at the end of the block: llama.cpp calls back for every line, and an exception that a handler
    raises within the callback would be lost.

    Args:
        listener: Called with every line of any level.
    """
    with held_back_signals(), _capturing(_Capture(listener)) as capture:
        yield capture.errors


def quietly(free: Callable[[Any], None]) -> Callable[[Any], None]:
    """A short function of llama.cpp, like a free, with its log captured."""

    def call(handle: Any) -> None:
        with _capturing(_Capture()):
            free(handle)

    return call


@contextmanager
def _capturing(capture: _Capture) -> Iterator[_Capture]:
    _captures.open.append(capture)
    _enter()
    try:
        yield capture
    finally:
        _leave()
        _captures.open.remove(capture)


def _collect(level: int, text: bytes, data: object) -> None:
    if _captures.open:
        capture = _captures.open[-1]
        line = text.decode("utf-8", "replace")
        if level == _LEVEL_ERROR:
            capture.errors.append(line.strip())
        if capture.listener is not None:
            capture.listener(line)
    elif _before[0]:
        _before[0](level, text, _before[1])
    else:
        # llama.cpp's default.
        sys.stderr.write(text.decode("utf-8", "replace"))


_callback = llama_cpp.llama_log_callback(_collect)


def _enter() -> None:
    global _blocks, _before
    with _lock:
        _blocks += 1
        if _blocks == 1:
            before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
            llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
            _before = before, data
            llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))


def _leave() -> None:
    global _blocks
    with _lock:
        _blocks -= 1
        if _blocks == 0:
            llama_cpp.llama_log_set(*_before)
