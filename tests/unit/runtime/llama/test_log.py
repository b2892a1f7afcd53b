"""The log of each thread goes to that thread's block, and llama.cpp's callback is never one that is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import threading

import llama_cpp
import pytest

from edge_behavior.runtime.llama.log import captured_log


def current() -> int | None:
    """Address of the callback in place."""
    callback, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(callback), ctypes.byref(data))
    return ctypes.cast(callback, ctypes.c_void_p).value


def log_error(text: str) -> None:
    """A line at llama.cpp's level of errors."""
    callback, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(callback), ctypes.byref(data))
    callback(4, text.encode(), data)


def test_blocks_of_two_threads_that_overlap() -> None:
    before = current()
    begun, ended = threading.Event(), threading.Event()
    theirs: list[str] = []

    def other() -> None:
        with captured_log() as errors:
            begun.set()
            ended.wait()
            log_error("theirs")
            theirs.extend(errors)

    thread = threading.Thread(target=other)
    with captured_log() as mine:
        thread.start()
        begun.wait()
        log_error("mine")
    ended.set()
    thread.join()
    assert (mine, theirs) == (["mine"], ["theirs"])
    assert current() == before


def test_the_innermost_block_takes_the_line() -> None:
    lines: list[str] = []
    with captured_log(lines.append) as outer:
        with captured_log() as inner:
            log_error("in")
        log_error("out\n")
    assert (inner, outer, lines) == (["in"], ["out"], ["out\n"])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_waits_for_the_end_of_the_block(name: str) -> None:
    number, seen = getattr(signal, name), []

    def handle(given: int, frame: object) -> None:
        seen.append(given)
        raise InterruptedError

    noted: list[str] = []

    def interrupted() -> None:
        with captured_log() as errors:
            os.kill(os.getpid(), number)
            log_error("still written")
            assert seen == []
            noted.extend(errors)

    before = signal.signal(number, handle)
    try:
        with pytest.raises(InterruptedError):
            interrupted()
        assert (seen, noted) == ([number], ["still written"])
        assert signal.getsignal(number) is handle
    finally:
        signal.signal(number, before)


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with captured_log():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
