"""llama.cpp's log, kept off the user's terminal."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import llama_cpp

_LEVEL_ERROR = 4


@contextmanager
def captured_log(listener: Callable[[str], None] | None = None) -> Iterator[list[str]]:
    """Keep llama.cpp's log off the terminal while the block runs; yields its error lines.

    The log callback is global to the process, so this is not thread-safe.

    Args:
        listener: Called with every line of any level.
    """
    errors: list[str] = []

    def collect(level: int, text: bytes, _: object) -> None:
        line = text.decode("utf-8", "replace")
        if level == _LEVEL_ERROR:
            errors.append(line.strip())
        if listener is not None:
            listener(line)

    before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    callback = llama_cpp.llama_log_callback(collect)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        yield errors
    finally:
        llama_cpp.llama_log_set(before, data)
